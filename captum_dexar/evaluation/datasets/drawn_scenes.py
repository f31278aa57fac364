"""Drawn scenes as a dataset, whatever they show."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from captum_dexar.evaluation.dataset import EvaluationDataset, Example, Region
from captum_dexar.inputs.image_prompt import ImagePromptInput
from captum_dexar.worlds.scene import Scene
from captum_dexar.worlds.world import World
from PIL import Image
from torch import nn, Tensor

PROMPT = "Describe the image."
OBJECTS = "objects"


class DrawnScenesDataset(EvaluationDataset):
    """Drawn scenes, their true captions, and the objects that each word refers to.

    A word of a chosen kind is a region with the union of the exact masks of all objects
    that it refers to; ``"objects"`` is the map of the whole answer with all objects.
    Each filler word is a region without a mask. Words of kinds that are not chosen are
    left out. Any fast tokenizer works, even if it splits words.

    Subclasses define ``name``, ``world``, ``word_kinds`` and ``default_kinds``.

    Args:
        seeds (iterable of int): seeds of the scenes
        processor (ProcessorMixin): the model's processor
        model (nn.Module, optional): as in :class:`ImagePromptInput`. Default: None
        kinds (sequence of str, optional): the kinds of regions, of ``word_kinds`` and
            ``"objects"``. Default: None, ``default_kinds``

    Attributes:
        world (World): what draws the scenes
        word_kinds (tuple of str): the kinds of words that refer to objects
        default_kinds (tuple of str): those that are measured by default

    Raises:
        ValueError: there is no such kind, or a seed is given twice.
    """

    world: World
    word_kinds: tuple[str, ...] = ()
    default_kinds: tuple[str, ...] = ()

    def __init__(
        self,
        seeds: Iterable[int],
        processor: Any,
        model: nn.Module | None = None,
        *,
        kinds: Sequence[str] | None = None,
    ) -> None:
        super().__init__(processor, model)
        self.seeds = seeds if isinstance(seeds, range) else list(seeds)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("A seed is given twice: each scene is one sample.")
        self.kinds = tuple(self.default_kinds if kinds is None else kinds)
        known = (*self.word_kinds, OBJECTS)
        unknown = [kind for kind in self.kinds if kind not in known]
        if unknown:
            raise ValueError(
                f"There are no regions of the kind {', '.join(map(repr, unknown))}. "
                f"The kinds are {', '.join(known)}."
            )

    def scene(self, seed: int) -> Scene:
        """The scene of a seed."""
        return self.world.make_scene(seed)

    def __len__(self) -> int:
        return len(self.seeds)

    def sample_id(self, index: int) -> str:
        """The scene's seed."""
        return str(self.seeds[index])

    def __getitem__(self, index: int) -> Example:
        scene = self.scene(self.seeds[index])
        inp = ImagePromptInput(scene.image, PROMPT, self.processor, self.model)
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        encoding = tokenizer(scene.caption, add_special_tokens=False)
        return inp, encoding["input_ids"], list(_regions(scene, encoding, self.kinds))

    def object_masks(self, index: int) -> list[Tensor]:
        """The exact mask of each object of a sample, ``(H, W)`` bool."""
        scene = self.scene(self.seeds[index])
        return [torch.from_numpy(item.mask.copy()) for item in scene.objects]

    def without(self, index: int, objects: Sequence[int]) -> Image.Image:
        """The image of a sample, drawn without some of its objects.

        Args:
            index (int): the sample's index
            objects (sequence of int): which of :meth:`object_masks`
        """
        return self.scene(self.seeds[index]).image_without(*objects)

    def description(self) -> dict[str, Any]:
        """See :meth:`EvaluationDataset.description`."""
        digest = hashlib.sha256()
        for seed in self.seeds:
            digest.update(f"{seed}\n".encode())
        return {
            **super().description(),
            "seeds": digest.hexdigest(),
            "kinds": sorted(self.kinds),
        }


def _regions(scene: Scene, encoding: Any, kinds: Sequence[str]) -> Iterator[Region]:
    masks = torch.from_numpy(np.stack([item.mask for item in scene.objects]))
    start = 0
    for word in scene.caption_words:
        end = start + len(word.text)
        tokens = {encoding.char_to_token(place) for place in range(start, end)}
        start = end + 1
        positions = sorted(tokens - {None})
        if not word.object_indices:
            yield positions, None
        elif word.kind in kinds:
            yield positions, masks[list(word.object_indices)].any(dim=0), word.kind
    if OBJECTS in kinds:
        yield None, masks.any(dim=0), OBJECTS
