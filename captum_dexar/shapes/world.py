"""The world of drawn shapes, as training and measuring take it."""

from captum_dexar.shapes.drawing import IMAGE_SIZE
from captum_dexar.shapes.language import CAPTION_PROMPT, COLOURS, SHAPES, SIZES
from captum_dexar.shapes.processing import VOCABULARY
from captum_dexar.shapes.scene import make_scene
from captum_dexar.worlds.world import World

EVEN = {
    "shape": 1.0,
    "colour exists": 1.0,
    "shape exists": 1.0,
    "exists": 1.5,
    "count": 1.0,
    "left": 1.5,
}

WORLD = World(
    name="shapes",
    make_scene=make_scene,
    vocabulary=VOCABULARY,
    image_size=IMAGE_SIZE,
    attributes={"shape": SHAPES, "colour": COLOURS, "size": SIZES},
    caption_prompt=CAPTION_PROMPT,
    question_kinds=EVEN,
    hard_kinds=EVEN | {"shape exists": 1.5, "exists": 4.0, "left": 3.0},
)
