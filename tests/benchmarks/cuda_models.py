"""Random models of the shapes of LLaVA-1.5-7B and Qwen2.5-VL-7B, and prompts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tests.benchmarks.models import TEXT_BEFORE_IMAGE
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    Qwen2_5_VLConfig,
)

QWEN_MERGE = 2


@dataclass(frozen=True)
class Shape:
    """A configuration, and an image of ``grid`` x ``grid`` tokens for it.

    Attributes:
        config (Any): the model's configuration
        grid (int): image tokens a side
        image_token (int): their id
        image_inputs (Callable): from input ids, the model's inputs of the image
    """

    config: Any
    grid: int
    image_token: int
    image_inputs: Callable[[Tensor], dict[str, Tensor]]

    def build(self, attention: str, device: str, dtype: torch.dtype) -> Any:
        """Random weights, made where they stay."""
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(
                self.config, dtype=dtype, attn_implementation=attention
            )
        return model.eval()

    def inputs(self, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """A prompt of the image between 24 random words."""
        generator = torch.Generator().manual_seed(0)
        text = torch.randint(1000, 30000, (1, 24), generator=generator)
        image = torch.full((1, self.grid**2), self.image_token)
        before, after = text[:, :TEXT_BEFORE_IMAGE], text[:, TEXT_BEFORE_IMAGE:]
        ids = torch.cat([before, image, after], dim=1)
        made = {"input_ids": ids, **self.image_inputs(ids)}
        made["pixel_values"] = made["pixel_values"].to(dtype)
        return {name: value.to(device) for name, value in made.items()}


def llava_7b(grid: int = 24, **text: Any) -> Shape:
    """CLIP-L/14 at 336 pixels and Llama-7B; ``text`` changes the language model."""
    side = 14 * grid
    image_token = 32000
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        projection_dim=768,
        image_size=side,
        patch_size=14,
    )
    llama: dict[str, Any] = {
        "vocab_size": 32064,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
    }
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**{**llama, **text}),
        image_token_index=image_token,
    )
    return Shape(
        config,
        grid,
        image_token,
        lambda ids: {"pixel_values": torch.randn(1, 3, side, side)},
    )


def qwen2_5_vl_7b(grid: int = 24, **text: Any) -> Shape:
    """Qwen2.5-VL-7B; ``text`` changes the language model."""
    image_token = 151655
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": QWEN_MERGE,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "out_hidden_size": text.get("hidden_size", 3584),
    }
    qwen: dict[str, Any] = {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1000000.0,
            "mrope_section": [16, 24, 24],
        },
    }
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config={**qwen, **text},
        image_token_id=image_token,
        video_token_id=151656,
        vision_start_token_id=151652,
        vision_end_token_id=151653,
        tie_word_embeddings=False,
    )
    patches = QWEN_MERGE * grid

    def image_inputs(ids: Tensor) -> dict[str, Tensor]:
        return {
            # Two equal frames of 14 x 14 pixels in three colours, a row each.
            "pixel_values": torch.randn(patches**2, 2 * 3 * 14**2),
            "image_grid_thw": torch.tensor([[1, patches, patches]]),
            "mm_token_type_ids": (ids == image_token).int(),
        }

    return Shape(config, grid, image_token, image_inputs)


SHAPES: dict[str, Callable[..., Shape]] = {
    "LLaVA-1.5-7B": llava_7b,
    "Qwen2.5-VL-7B": qwen2_5_vl_7b,
}
