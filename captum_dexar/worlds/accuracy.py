"""Accuracy of a model's answers about scenes of a drawn world."""

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from captum_dexar.worlds.scene import Scene
from captum_dexar.worlds.world import World
from PIL import Image
from tqdm import tqdm
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor


@dataclass(frozen=True)
class Accuracy:
    """Exact matches among answers of one kind.

    Attributes:
        right (int): number of answers that were exactly right
        asked (int): number of questions asked
    """

    right: int
    asked: int

    @property
    def share(self) -> float:
        """``right / asked``, from 0 to 1."""
        return self.right / self.asked


def caption_kind(scene: Scene) -> str:
    """The kind of a scene's caption: by its number of objects."""
    return f"caption of {len(scene.objects)}"


@dataclass(frozen=True)
class _Item:
    image: Image.Image
    prompt: str
    answer: str
    kind: str


def _items(world: World, scene: Scene) -> list[_Item]:
    asked = [(world.caption_prompt, scene.caption, caption_kind(scene))]
    asked += [(item.text, item.answer, item.kind) for item in scene.questions]
    return [_Item(scene.image, *values) for values in asked]


@torch.no_grad()
def _answers(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    items: Sequence[_Item],
) -> list[str]:
    inputs = processor(
        images=[item.image for item in items],
        text=[f"USER: <image>\n{item.prompt} ASSISTANT:" for item in items],
        padding=True,
        return_tensors="pt",
    ).to(model.device)
    ids = model.generate(**inputs, do_sample=False)
    new_ids = ids[:, inputs["input_ids"].shape[1] :]
    answers: list[str] = processor.batch_decode(new_ids, skip_special_tokens=True)
    return answers


def measure_accuracy(
    world: World,
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    seeds: Iterable[int],
    batch_size: int = 64,
    show_progress: bool = False,
) -> dict[str, Accuracy]:
    """Asks a model for the caption of each scene and all questions about it.

    Answers are generated greedily and count as right only if they match exactly.

    Args:
        world (World): the world that the model was trained on
        model (LlavaForConditionalGeneration): a model in eval mode
        processor (LlavaProcessor): its processor
        seeds (iterable of int): seeds of the scenes; below ``first_training_seed`` they
            are held out
        batch_size (int, optional): number of answers generated together. Default: 64
        show_progress (bool, optional): shows a progress bar. Default: False

    Returns:
        *dict* of str to Accuracy by kind: ``"caption of 1"`` and so on (the number of
        objects) and the world's kinds of questions; kinds that do not occur are absent

    Raises:
        ValueError: ``seeds`` is empty.
    """
    items = [item for seed in seeds for item in _items(world, world.make_scene(seed))]
    if not items:
        raise ValueError("seeds must name at least one scene, got none.")
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    starts = range(0, len(items), batch_size)
    for start in tqdm(starts, disable=not show_progress, unit="batch"):
        chunk = items[start : start + batch_size]
        for item, answer in zip(chunk, _answers(model, processor, chunk)):
            asked[item.kind] += 1
            right[item.kind] += answer == item.answer
    captions = [f"caption of {count + 1}" for count in range(world.max_objects)]
    return {
        kind: Accuracy(right[kind], asked[kind])
        for kind in (*captions, *world.question_kinds)
        if asked[kind]
    }


def main(
    world: World,
    arguments: Sequence[str] | None = None,
    default_model: Path | None = None,
) -> None:
    """The command line of ``python -m captum_dexar.WORLD.accuracy``.

    Args:
        world (World): the world
        arguments (sequence of str, optional): the command's arguments. Default: None,
            those of this process
        default_model (pathlib.Path, optional): folder of the model that is measured
            unless another one is named. Default: None, one has to be named
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m captum_dexar.{world.name}.accuracy",
        description="Exactly right answers of a model, by kind, as a table.",
    )
    parser.add_argument(
        "--model", default=default_model, required=not default_model, metavar="DIR"
    )
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=500)
    options = parser.parse_args(arguments)
    model = LlavaForConditionalGeneration.from_pretrained(options.model).eval()
    # The default backend depends on torchvision and would change the pixels.
    processor = AutoProcessor.from_pretrained(options.model, backend="pil")
    seeds = range(options.first_seed, options.first_seed + options.scenes)
    print("| kind | right | asked | share |\n|---|---|---|---|")
    accuracy = measure_accuracy(world, model, processor, seeds, show_progress=True)
    for kind, value in accuracy.items():
        print(f"| {kind} | {value.right} | {value.asked} | {value.share:.3f} |")
