"""Molmo 2."""

from collections.abc import Mapping
from math import isqrt
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.shared.image_blocks import in_sequence
from captum_dexar.maps.layout import ImageLayout, Rectangle, Size, View
from torch import Tensor


class Molmo2Adapter(FamilyAdapter):
    """A coarse and a fine grid, each over the whole stretched image.

    The fine one is cut into crops that overlap; a patch that is on two of them belongs
    to the token of one. ``image_token_pooling`` tells which patches make a token, by
    their number among all patches of all images. The tokens of all images of a prompt
    attend to each other in both directions, where ``mm_token_type_ids`` are given.
    """

    name: ClassVar[str] = "Molmo 2"
    model_types: ClassVar[tuple[str, ...]] = ("molmo2",)
    processor_types: ClassVar[tuple[str, ...]] = ("Molmo2Processor",)
    boxes_checked: ClassVar[str] = "end to end, where torchvision is installed"
    required_inputs: ClassVar[tuple[str, ...]] = (
        "image_grids",
        "image_token_pooling",
        "mm_token_type_ids",
    )
    grid_inputs: ClassVar[tuple[str, ...]] = ("image_grids",)
    flat_pixels: ClassVar[bool] = True
    pixel_dims: ClassVar[int] = 3
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "mm_token_type_ids": 0,
    }
    prompt_is_bidirectional: ClassVar[bool] = True

    def image_token_id(self, processor: Any) -> int:
        """See :meth:`FamilyAdapter.image_token_id`.

        ``processor.image_token_id`` is another, that of the placeholder in a text.
        """
        return int(processor.tokenizer.convert_tokens_to_ids("<im_patch>"))

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        grids = torch.as_tensor(image.inputs["image_grids"]).cpu()
        coarse_rows, coarse_columns, rows, columns = image.entry("image_grids")
        before = grids[: image.index]
        start = int((before[:, 0] * before[:, 1] + before[:, 2] * before[:, 3]).sum())
        views = []
        for name, grid in (
            ("global", (coarse_rows, coarse_columns)),
            ("tile", (rows, columns)),
        ):
            views.append(View(name, grid, _rectangle(image, grid, start)))
            start += grid[0] * grid[1]
        return in_sequence(views)

    def joined(self, inputs: dict[str, Any], examples: int) -> dict[str, Any]:
        """See :meth:`FamilyAdapter.joined`; patches are counted through."""
        crops, patches = inputs[self.pixel_input].shape[:2]
        pooled: Tensor = inputs["image_token_pooling"]
        example = torch.arange(examples, device=pooled.device)
        before = example.repeat_interleave(len(pooled) // examples) * (
            crops // examples * patches
        )
        shifted = (pooled + before[:, None]).where(pooled >= 0, pooled)
        return {**inputs, "image_token_pooling": shifted}

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`."""
        crops, patches = inputs[self.pixel_input].shape[:2]
        pooled = torch.as_tensor(inputs["image_token_pooling"]).cpu().long()
        token = torch.full((crops * patches,), -1)
        number = torch.arange(len(pooled))[:, None].expand_as(pooled)
        token[pooled[pooled >= 0]] = number[pooled >= 0]
        return token.view(crops, patches, 1)


def _rectangle(image: PreparedImage, grid: Size, start: int) -> Rectangle | None:
    """What a grid covers, from token ``start`` on.

    Where the patches do not fill the grid it extends beyond the image.
    """
    if image.size is None:
        return None
    pooled = torch.as_tensor(image.inputs["image_token_pooling"]).cpu()
    pooling: Any = (isqrt(pooled.shape[1]),) * 2
    if image.image_processor is not None:
        pooling = image.image_processor.pooling_size
    is_patch = (pooled[start : start + grid[0] * grid[1]] >= 0).view(*grid, *pooling)
    edges = []
    for axis in (0, 1):
        others = (1 - axis, 3 - axis)
        along = is_patch.any(dim=others).flatten()
        first = int(along.int().argmax())
        pixels = image.size[axis] / int(along.sum())
        edges.append((-first * pixels, (len(along) - first) * pixels))
    return (edges[0][0], edges[1][0], edges[0][1], edges[1][1])
