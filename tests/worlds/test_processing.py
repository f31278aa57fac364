"""Words to ids and back, in every world."""

import pytest
import torch
from captum_dexar.letters.world import WORLD as LETTERS
from captum_dexar.shapes.world import WORLD as SHAPES
from captum_dexar.training.batches import pixel_values
from captum_dexar.training.packing import pack, Turn
from captum_dexar.worlds.processing import (
    build_processor,
    IMAGE,
    UNKNOWN,
    vocabulary_of,
)
from captum_dexar.worlds.world import World
from transformers import LlavaProcessor

TEXT = "USER: <image>\nDescribe the image. ASSISTANT:"
every_world = pytest.mark.parametrize(
    "world", [SHAPES, LETTERS], ids=lambda one: one.name
)


def _processor(world: World) -> LlavaProcessor:
    return build_processor(world.vocabulary, world.image_size)


@every_world
def test_everything_said_survives_the_tokenizer(world: World) -> None:
    processor = _processor(world)
    for seed in range(150):
        scene = world.make_scene(seed)
        said = [scene.caption]
        for question in scene.questions:
            said += [question.text, question.answer]
        for text in said:
            ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            assert world.vocabulary[UNKNOWN] not in ids
            assert len(ids) == len(text.split())
            assert processor.decode(ids) == text


@every_world
def test_no_word_is_without_use(world: World) -> None:
    used = set(f"user assistant : {world.caption_prompt}".split())
    for seed in range(400):
        scene = world.make_scene(seed)
        used |= set(scene.caption.split())
        for question in scene.questions:
            used |= set(question.text.split()) | set(question.answer.split())
    assert {word for word in world.vocabulary if not word.startswith("<")} == used


@every_world
def test_a_saved_processor_is_the_same(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("processor")
    processor = _processor(world)
    processor.save_pretrained(folder)
    loaded = LlavaProcessor.from_pretrained(folder, backend="pil")
    scene = world.make_scene(3)
    given = [
        one(images=scene.image, text=f"{TEXT} {scene.caption}", return_tensors="pt")
        for one in (processor, loaded)
    ]
    for name in ("input_ids", "pixel_values"):
        assert given[0][name].equal(given[1][name])
    assert (given[0]["input_ids"] == world.vocabulary[IMAGE]).sum() == 144


@every_world
def test_training_sees_what_the_processor_makes(world: World) -> None:
    scene = world.make_scene(3)
    inputs = _processor(world)(images=scene.image, text=TEXT, return_tensors="pt")
    turns = [Turn(world.caption_prompt, scene.caption)]
    packed = pack([turns], world.vocabulary, 144)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(packed.input_ids[:, :length], inputs["input_ids"])
    assert packed.input_ids.shape[1] == length + len(scene.caption.split()) + 1
    assert torch.equal(pixel_values([scene]), inputs["pixel_values"])


def test_vocabularies_have_each_word_once() -> None:
    with pytest.raises(ValueError, match=r"got twice: \['a'\]"):
        vocabulary_of(["a", "b", "a"])
