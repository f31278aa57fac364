"""Families with slices, two grids or line breaks, ready for the block test."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tests.families.cases import (
    emu3,
    granite4_vision,
    granite_docling,
    minicpm,
    molmo2,
    unlimited_ocr,
)
from tests.helpers import slice_processors as processors
from tests.helpers.blocks import silence_vision_attention
from tests.helpers.real_families import RealFamily
from torch import nn, Tensor

# Pixels of the processed image that the convolutions of a token see beyond its box.
EMU3_REACH = 32.0
UNLIMITED_REACH = 4.0 * unlimited_ocr.PATCH
TILED = ("pixel_values", "pixel_attention_mask", "tile_fine_mask")


class EveryLayer(RealFamily):
    """All features of a token that the text model gets, in any layer."""

    def features(self, model: Any) -> Callable[[Any], Tensor]:
        def features(inputs: Any) -> Tensor:
            known = {name: inputs[name] for name in self.inputs if name in inputs}
            layers = model.get_image_features(**known).deepstack_features
            # Some say which layer of the text model they are for.
            only = [
                layer[-1] if isinstance(layer[0], int) else layer for layer in layers
            ]
            return torch.cat([torch.cat(tuple(layer)) for layer in only], dim=1)

        return features


class Emu3(RealFamily):
    """Convolutions make the grid, whose rows end with a token that sees nothing."""

    def model(self) -> nn.Module:
        model: Any = self.build()
        encoder = model.model.vqmodel.encoder
        with torch.no_grad():
            # Large negative features would be rounded to zero by their sigmoid gates.
            for parameter in encoder.parameters():
                parameter.mul_(0.3)
        for output in ("attn_1.out_proj", "conv2.conv", "conv2"):
            silence_vision_attention(model, "vqmodel.encoder", output)
        norms = (nn.GroupNorm, nn.BatchNorm3d)
        for module in list(encoder.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, norms) and name != "attn_norm":
                    setattr(module, name, nn.Identity())
        evaluated: nn.Module = model.eval()
        return evaluated

    def features(self, model: Any) -> Callable[[Any], Tensor]:
        def features(inputs: Any) -> Tensor:
            images = inputs["pixel_values"].float()
            made = model.model.vqmodel.encode(images, inputs["image_sizes"])
            grid = made.last_hidden_state[0, 0]
            rows, columns = inputs["image_sizes"][0] // emu3.SIDE
            row_ends = nn.functional.pad(grid[:, :rows, :columns], (0, 1))
            return row_ends.flatten(1).T

        return features


class UnlimitedOcr(RealFamily):
    """SAM, convolutions and CLIP, one after the other."""

    def model(self) -> nn.Module:
        silenced = silence_vision_attention(self.build(), "sam_encoder", "attn.proj")
        return silence_vision_attention(silenced, "vision_encoder", "out_proj")


def _minicpm(variant: str) -> RealFamily:
    return RealFamily(
        partial(minicpm.build, variant),
        partial(processors.minicpm_processor, variant),
        inputs=("pixel_values", "target_sizes"),
        token_pixels=minicpm.PATCH * minicpm.MERGE[variant],
    )


def _granite_docling(fine: bool) -> RealFamily:
    return EveryLayer(
        granite_docling.build,
        partial(processors.granite_docling_processor, fine_route=fine),
        ("vision_model", "self_attn.out_proj"),
        TILED,
        token_pixels=8 if fine else 16,
    )


FAMILIES: dict[str, RealFamily] = {
    **{variant: _minicpm(variant) for variant in minicpm.CLASSES},
    "granite_docling": _granite_docling(False),
    "granite_docling_fine": _granite_docling(True),
    "granite4_vision": EveryLayer(
        partial(granite4_vision.build, rate="1/2"),
        processors.granite4_vision_processor,
        inputs=("pixel_values", "image_sizes"),
    ),
    "molmo2": RealFamily(
        molmo2.build,
        processors.molmo2_processor,
        ("vision_tower", "self_attn.o_proj"),
        ("pixel_values", "image_token_pooling", "image_grids"),
        token_pixels=2 * molmo2.PATCH,
    ),
    "emu3": Emu3(
        emu3.build,
        processors.emu3_processor,
        token_pixels=emu3.SIDE,
        support=2.0 + EMU3_REACH,
    ),
    "unlimited_ocr": UnlimitedOcr(
        unlimited_ocr.build,
        processors.unlimited_ocr_processor,
        inputs=(
            "pixel_values",
            "pixel_values_local",
            "num_local_patches",
            "patches_grid",
        ),
        token_pixels=unlimited_ocr.PATCH * unlimited_ocr.MERGE,
        support=2.0 + UNLIMITED_REACH,
    ),
}
