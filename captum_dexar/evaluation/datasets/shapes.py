"""The synthetic scenes as a dataset."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from captum_dexar.evaluation.dataset import Example, Region
from captum_dexar.inputs.image_prompt import ImagePromptInput
from captum_dexar.shapes import make_scene, Scene
from torch import nn

PROMPT = "Describe the image."
KINDS = ("colour", "shape")


class ShapesDataset:
    """Drawn scenes, their true captions, and the object that each word describes.

    Colour and shape words come with their kind and the exact mask of the object that
    they describe; filler words have no mask; size and relation words are left out. Any
    fast tokenizer works, even if it splits words.

    Args:
        seeds (iterable of int): seeds of the scenes; the bundled model was not trained
            on those below 1,000,000
        processor (ProcessorMixin): the model's processor
        model (nn.Module, optional): as in :class:`ImagePromptInput`. Default: None

    Examples::

        >>> from captum_dexar.evaluation import ShapesDataset
        >>> from captum_dexar.shapes import load_vlm
        >>> model, processor = load_vlm()
        >>> inp, target, regions = next(iter(ShapesDataset(range(3), processor)))
        >>> tokens, mask, kind = regions[4]
        >>> tokens, mask.shape, kind
        ([5], torch.Size([96, 96]), 'colour')
    """

    def __init__(
        self, seeds: Iterable[int], processor: Any, model: nn.Module | None = None
    ) -> None:
        self.seeds = list(seeds)
        self.processor = processor
        self.model = model

    def __len__(self) -> int:
        return len(self.seeds)

    def __iter__(self) -> Iterator[Example]:
        for seed in self.seeds:
            scene = make_scene(seed)
            inp = ImagePromptInput(scene.image, PROMPT, self.processor, self.model)
            tokenizer = getattr(self.processor, "tokenizer", self.processor)
            encoding = tokenizer(scene.caption, add_special_tokens=False)
            yield inp, encoding["input_ids"], list(_regions(scene, encoding))


def _regions(scene: Scene, encoding: Any) -> Iterator[Region]:
    start = 0
    for word in scene.caption_words:
        end = start + len(word.text)
        tokens = {encoding.char_to_token(place) for place in range(start, end)}
        start = end + 1
        positions = sorted(tokens - {None})
        if word.kind in KINDS and word.object_index is not None:
            mask = torch.from_numpy(scene.objects[word.object_index].mask.copy())
            yield positions, mask, word.kind
        elif word.kind == "filler":
            yield positions, None
