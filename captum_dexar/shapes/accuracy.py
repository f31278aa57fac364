"""Accuracy of a model's answers: ``python -m captum_dexar.shapes.accuracy``."""

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from captum_dexar.shapes.bundled import VLM_FOLDER
from captum_dexar.shapes.language import CAPTION_PROMPT, QUESTION_KINDS
from captum_dexar.shapes.scene import make_scene, Scene
from PIL import Image
from tqdm import tqdm
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

CAPTION_KINDS = ("caption of 1", "caption of 2", "caption of 3")


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


@dataclass(frozen=True)
class _Item:
    image: Image.Image
    prompt: str
    answer: str
    kind: str


def _items(scene: Scene) -> list[_Item]:
    caption_kind = CAPTION_KINDS[len(scene.objects) - 1]
    asked = [(CAPTION_PROMPT, scene.caption, caption_kind)]
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
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    seeds: Iterable[int],
    batch_size: int = 64,
    show_progress: bool = False,
) -> dict[str, Accuracy]:
    """Asks a model for the caption of each scene and all questions about it.

    Answers are generated greedily and count as right only if they match exactly.

    Args:
        model (LlavaForConditionalGeneration): a model in eval mode
        processor (LlavaProcessor): its processor
        seeds (iterable of int): seeds of the scenes; below 1,000,000 they are held out
        batch_size (int, optional): number of answers generated together. Default: 64
        show_progress (bool, optional): shows a progress bar. Default: False

    Returns:
        *dict* of str to Accuracy by kind, ``"caption of 1"`` to ``"caption of 3"``
        (the number of objects) and the kinds of :class:`Question`; kinds that do not
        occur are absent

    Raises:
        ValueError: ``seeds`` is empty.

    Examples::

        >>> from captum_dexar.shapes import load_vlm
        >>> model, processor = load_vlm()
        >>> accuracy = measure_accuracy(model, processor, range(3))
        >>> accuracy["count"].share
        1.0
    """
    items = [item for seed in seeds for item in _items(make_scene(seed))]
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
    return {
        kind: Accuracy(right[kind], asked[kind])
        for kind in (*CAPTION_KINDS, *QUESTION_KINDS)
        if asked[kind]
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m captum_dexar.shapes.accuracy", description=__doc__
    )
    parser.add_argument("--model", default=VLM_FOLDER, metavar="DIR")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=500)
    options = parser.parse_args(arguments)
    model = LlavaForConditionalGeneration.from_pretrained(options.model).eval()
    processor = AutoProcessor.from_pretrained(options.model)
    seeds = range(options.first_seed, options.first_seed + options.scenes)
    print("| kind | right | asked | share |\n|---|---|---|---|")
    accuracy = measure_accuracy(model, processor, seeds, show_progress=True)
    for kind, value in accuracy.items():
        print(f"| {kind} | {value.right} | {value.asked} | {value.share:.3f} |")


if __name__ == "__main__":
    main()
