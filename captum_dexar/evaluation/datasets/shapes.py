"""The synthetic scenes as a dataset."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from captum_dexar.evaluation.dataset import EvaluationDataset, Example, Region
from captum_dexar.inputs.image_prompt import ImagePromptInput
from captum_dexar.shapes import make_scene, Scene
from PIL import Image
from torch import nn, Tensor

PROMPT = "Describe the image."
KINDS = ("colour", "shape")
ALL_KINDS = ("colour", "shape", "size", "relation", "objects")


class ShapesDataset(EvaluationDataset):
    """Drawn scenes, their true captions, and the objects that each word describes.

    Every region of a chosen kind has an exact mask:

    - ``"colour"``, ``"shape"``, ``"size"``: a word, and the object that it describes
    - ``"relation"``: a word of "above" or "left of", and both objects that it relates
    - ``"objects"``: the map of the whole answer, and all objects

    Each filler word is a region without a mask. Words of kinds that are not chosen are
    left out. Any fast tokenizer works, even if it splits words.

    Args:
        seeds (iterable of int): seeds of the scenes; the bundled model was not trained
            on those below 1,000,000
        processor (ProcessorMixin): the model's processor
        model (nn.Module, optional): as in :class:`ImagePromptInput`. Default: None
        kinds (sequence of str, optional): the kinds of regions, see above.
            Default: ``("colour", "shape")``

    Raises:
        ValueError: there is no such kind, or a seed is given twice.

    Examples::

        >>> from captum_dexar.evaluation import ShapesDataset
        >>> from captum_dexar.shapes import load_vlm
        >>> model, processor = load_vlm()
        >>> inp, target, regions = next(iter(ShapesDataset(range(3), processor)))
        >>> tokens, mask, kind = regions[4]
        >>> tokens, mask.shape, kind
        ([5], torch.Size([96, 96]), 'colour')
    """

    name = "shapes"

    def __init__(
        self,
        seeds: Iterable[int],
        processor: Any,
        model: nn.Module | None = None,
        *,
        kinds: Sequence[str] = KINDS,
    ) -> None:
        super().__init__(processor, model)
        self.seeds = seeds if isinstance(seeds, range) else list(seeds)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("A seed is given twice: each scene is one sample.")
        unknown = [kind for kind in kinds if kind not in ALL_KINDS]
        if unknown:
            raise ValueError(
                f"There are no regions of the kind {', '.join(map(repr, unknown))}. "
                f"The kinds are {', '.join(ALL_KINDS)}."
            )
        self.kinds = tuple(kinds)

    def __len__(self) -> int:
        return len(self.seeds)

    def sample_id(self, index: int) -> str:
        """The scene's seed."""
        return str(self.seeds[index])

    def __getitem__(self, index: int) -> Example:
        scene = make_scene(self.seeds[index])
        inp = ImagePromptInput(scene.image, PROMPT, self.processor, self.model)
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        encoding = tokenizer(scene.caption, add_special_tokens=False)
        return inp, encoding["input_ids"], list(_regions(scene, encoding, self.kinds))

    def object_masks(self, index: int) -> list[Tensor]:
        """See :class:`RedrawnScenes`."""
        scene = make_scene(self.seeds[index])
        return [_mask(scene, place) for place in range(len(scene.objects))]

    def without(self, index: int, objects: Sequence[int]) -> Image.Image:
        """See :class:`RedrawnScenes`."""
        return make_scene(self.seeds[index]).image_without(*objects)

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
    start = 0
    union = torch.from_numpy(scene.mask)
    for word in scene.caption_words:
        end = start + len(word.text)
        tokens = {encoding.char_to_token(place) for place in range(start, end)}
        start = end + 1
        positions = sorted(tokens - {None})
        if word.kind == "filler":
            yield positions, None
        elif word.kind in kinds:
            # A scene with a relation has no other object than the two.
            mask = (
                union if word.object_index is None else _mask(scene, word.object_index)
            )
            yield positions, mask, word.kind
    if "objects" in kinds:
        yield None, union, "objects"


def _mask(scene: Scene, index: int) -> Tensor:
    return torch.from_numpy(scene.objects[index].mask.copy())
