"""Every family whose real processor can be built here, ready for the block test.

A vision tower's attention is silenced, so that an image token is a function of its own
pixels alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from captum_dexar.families import adapter_for_config
from tests.families.cases import (
    cross_attention,
    early_fusion,
    gemma,
    idefics3,
    paligemma,
    patch_grid,
    pixtral,
    tiled_canvas,
    tiles,
)
from tests.helpers import (
    idefics3_gemma_processors,
    patch_grid_processors,
    plain_prompt_processors,
    tile_processors,
)
from tests.helpers.blocks import silence_vision_attention
from tests.helpers.processors import llava_processor, STRETCH
from tests.helpers.tiny_models import tiny_vlm
from torch import nn, Tensor

Silenced = tuple[str, str]
PLAIN: Silenced = ("vision_tower", "self_attn.out_proj")


@dataclass(frozen=True)
class RealFamily:
    """A tiny model of a family and its processor.

    Attributes:
        build: makes the model
        processor: makes its processor
        silenced: the vision tower, and how its attentions' output projections end
        inputs: model inputs that the vision tower takes
        token_pixels: side of the square of the processed image that a token stands for
        support: how far resampling reaches, in pixels of the smaller image
        call: arguments that the processor's call needs
    """

    build: Callable[[], nn.Module]
    processor: Callable[..., Any]
    silenced: Silenced = PLAIN
    inputs: tuple[str, ...] = ("pixel_values",)
    token_pixels: int = 8
    support: float = 2.0
    call: Mapping[str, Any] = field(default_factory=dict)

    def model(self) -> nn.Module:
        """The model, with its vision tower's attention silenced."""
        return silence_vision_attention(self.build(), *self.silenced)

    def features(self, model: Any) -> Callable[[Any], Tensor]:
        """Makes all image tokens of a prompt, ``(image tokens, size)``."""

        def features(inputs: Any) -> Tensor:
            known = {name: inputs[name] for name in self.inputs if name in inputs}
            made = model.get_image_features(**known).pooler_output
            if isinstance(made, (list, tuple)):
                made = torch.cat(tuple(made))
            every_token: Tensor = made.flatten(0, -2)
            return every_token

        return features


class Mllama(RealFamily):
    """The keys of the cross-attention layers, class tokens included."""

    def features(self, model: Any) -> Callable[[Any], Tensor]:
        def features(inputs: Any) -> Tensor:
            known = {name: inputs[name] for name in self.inputs}
            keys: Tensor = model.model.vision_model(**known).last_hidden_state
            return keys.flatten(0, -2)

        return features


class Fuyu(RealFamily):
    """It has no vision tower."""

    def model(self) -> nn.Module:
        return self.build()

    def features(self, model: Any) -> Callable[[Any], Tensor]:
        def features(inputs: Any) -> Tensor:
            patches: Tensor = model.model.vision_embed_tokens(inputs["pixel_values"])
            return patches.flatten(0, -2)

        return features


class Florence2(RealFamily):
    """Convolutions make the grid; the first token is the mean of the others."""

    def model(self) -> nn.Module:
        model = self.build()
        for output in ("window_attn.proj", "channel_attn.proj", "conv1", "conv2"):
            silence_vision_attention(model, output=output)
        return model

    def features(self, model: Any) -> Callable[[Any], Tensor]:
        def features(inputs: Any) -> Tensor:
            tower = model.model.vision_tower(inputs["pixel_values"])
            tokens: Tensor = model.model.multi_modal_projector(tower[0])[0]
            return torch.cat([torch.zeros_like(tokens[:1]), tokens[1:]])

        return features


class Chameleon(RealFamily):
    """Convolutions make the grid."""

    def model(self) -> nn.Module:
        model: Any = self.build()
        for output in ("attn_1.proj_out", "conv2"):
            silence_vision_attention(model, "vqmodel.encoder", output)
        for module in model.model.vqmodel.encoder.modules():
            for name, child in module.named_children():
                if isinstance(child, nn.GroupNorm):
                    setattr(module, name, nn.Identity())
        return model

    def features(self, model: Any) -> Callable[[Any], Tensor]:
        def features(inputs: Any) -> Tensor:
            made: Tensor = model.model.vqmodel.encoder(inputs["pixel_values"])
            return made[0].flatten(1).T

        return features


def _patch_grid(family: str) -> RealFamily:
    is_video_llama = family == "video_llama_3"
    merge = 1 if is_video_llama else patch_grid.MERGE
    return RealFamily(
        partial(patch_grid.build, family),
        partial(patch_grid_processors.grid_processor, family),
        (
            ("vision_model", "self_attn.out_proj")
            if is_video_llama
            else ("visual", "attn.proj")
        ),
        ("pixel_values", "image_grid_thw", "image_merge_sizes"),
        patch_grid.PATCH * merge,
    )


def _pixtral(family: str) -> RealFamily:
    side = pixtral.PATCH * pixtral.MERGE[family]
    return RealFamily(
        partial(pixtral.build, family),
        partial(
            tile_processors.pixtral_processor,
            patch=pixtral.PATCH,
            merge=pixtral.MERGE[family],
        ),
        ("vision_tower", "attention.o_proj"),
        ("pixel_values", "image_sizes"),
        side,
    )


def _idefics(variant: str) -> RealFamily:
    return RealFamily(
        lambda: idefics3.build(variant, 0, "sdpa"),
        partial(idefics3_gemma_processors.idefics_processor, variant),
        ("vision_model", "self_attn.out_proj"),
        ("pixel_values", "pixel_attention_mask"),
        16,
        6.0,
    )


def _tiles(variant: str, make: Callable[..., Any], output: str) -> RealFamily:
    return RealFamily(
        partial(tiles.build, variant), make, ("vision_tower", output), token_pixels=8
    )


CANVAS = ("pixel_values", "image_sizes", "batch_num_images")
FAMILIES: dict[str, RealFamily] = {
    "llava": RealFamily(tiny_vlm, llava_processor),
    "vipllava": RealFamily(partial(tiny_vlm, "vipllava"), llava_processor),
    "llava_stretched": RealFamily(tiny_vlm, partial(llava_processor, STRETCH)),
    "llava_next": RealFamily(
        partial(tiled_canvas.build, "llava_next"),
        tile_processors.llava_next_processor,
        inputs=CANVAS,
    ),
    "llava_onevision": RealFamily(
        partial(tiled_canvas.build, "llava_onevision"),
        tile_processors.llava_onevision_processor,
        inputs=CANVAS,
    ),
    "internvl": _tiles(
        "internvl", tile_processors.internvl_processor, "attention.projection_layer"
    ),
    "aya_vision": _tiles(
        "aya_vision", tile_processors.aya_vision_processor, "self_attn.out_proj"
    ),
    "ovis2": _tiles("ovis2", tile_processors.ovis2_processor, "attention.out_proj"),
    **{name: _patch_grid(name) for name in patch_grid_processors.CLASSES},
    "pixtral": _pixtral("pixtral"),
    "mistral3": _pixtral("mistral3"),
    "idefics3": _idefics("idefics3"),
    "smolvlm": _idefics("smolvlm"),
    "gemma3": RealFamily(
        lambda: gemma.gemma3(0, "sdpa"), idefics3_gemma_processors.gemma3_processor
    ),
    "gemma3_pan_and_scan": RealFamily(
        lambda: gemma.gemma3(0, "sdpa"),
        partial(idefics3_gemma_processors.gemma3_processor, True),
    ),
    "gemma4": RealFamily(
        lambda: gemma.gemma4("gemma4", 0, "sdpa"),
        idefics3_gemma_processors.gemma4_processor,
        ("vision_tower", "self_attn.o_proj.linear"),
        ("pixel_values", "image_position_ids"),
    ),
    "paligemma": RealFamily(
        lambda: paligemma.build(1, 0, "sdpa"),
        plain_prompt_processors.paligemma_processor,
    ),
    "mllama": Mllama(
        lambda: cross_attention.build_mllama(0, "sdpa"),
        plain_prompt_processors.mllama_processor,
        ("vision_model", "self_attn.o_proj"),
        ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"),
    ),
    "fuyu": Fuyu(
        lambda: early_fusion.build_fuyu(0, "sdpa"),
        plain_prompt_processors.fuyu_processor,
        token_pixels=6,
        call={"return_legacy_image_output": False},
    ),
    "florence2": Florence2(
        lambda: cross_attention.build_florence2(0, "sdpa"),
        partial(plain_prompt_processors.florence2_processor, 96),
        support=2.0 + 7.0,
    ),
    "chameleon": Chameleon(
        lambda: early_fusion.build_chameleon(False, 0, "sdpa"),
        partial(plain_prompt_processors.chameleon_processor, 48),
        token_pixels=4,
        support=3.0 + 9.0,
    ),
}


def prompt_of(processor: Any, model: nn.Module) -> str:
    """A prompt for one image, in the family's own form."""
    adapter = adapter_for_config(model.config)
    if getattr(processor, "chat_template", None) is None:
        placeholder = adapter.placeholder(processor)
        return f"{placeholder} what" if placeholder else "what"
    return adapter.prompt("is", processor)
