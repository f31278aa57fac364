"""The world of letters and digits, as training and measuring take it."""

from captum_dexar.letters.drawing import IMAGE_SIZE
from captum_dexar.letters.language import (
    CAPTION_PROMPT,
    CHARACTERS,
    COLOURS,
    QUESTION_KINDS,
    SIZES,
)
from captum_dexar.letters.processing import VOCABULARY
from captum_dexar.letters.scene import make_scene
from captum_dexar.worlds.world import World

EVEN = dict.fromkeys(QUESTION_KINDS, 1.0)

WORLD = World(
    name="letters",
    make_scene=make_scene,
    vocabulary=VOCABULARY,
    image_size=IMAGE_SIZE,
    attributes={"character": CHARACTERS, "colour": COLOURS, "size": SIZES},
    caption_prompt=CAPTION_PROMPT,
    question_kinds=EVEN,
    hard_kinds=EVEN | {"character exists": 1.5, "exists": 4.0, "left": 3.0},
)
