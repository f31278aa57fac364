"""Families whose processor says how many rows and columns of patches an image has."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.maps.layout import ImageLayout
from torch import Tensor
from transformers.vision_utils import get_vision_window_index


class _GridAdapter(FamilyAdapter):
    """The whole image, stretched to a grid of patches, some of which make a token."""

    flat_pixels: ClassVar[bool] = True
    pixel_dims: ClassVar[int] = 2
    grid_inputs: ClassVar[tuple[str, ...]] = ("image_grid_thw",)

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        _, height, width = image.entry("image_grid_thw")
        merge = self.merge_size(image)
        return self.placed("full", (height // merge, width // merge), image.whole())

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """Rows are patches, those of a token one after the other."""
        num_patches = int(inputs[self.pixel_input].shape[0])
        grids = torch.as_tensor(inputs["image_grid_thw"]).tolist()
        per_image = [frames * rows * columns for frames, rows, columns in grids]
        if len(grids) != len(layout.views) or sum(per_image) != num_patches:
            raise self.unknown_pixels(inputs[self.pixel_input].shape)
        # Images may differ in how many patches make a token.
        tokens = [
            view.tokens.repeat_interleave(count // view.num_tokens)
            for view, count in zip(layout.views, per_image)
        ]
        return torch.cat(tokens)[:, None]

    def merge_size(self, image: PreparedImage) -> int:
        """Side of the square of patches that one image token stands for."""
        if image.config is not None:
            return int(image.config.vision_config.spatial_merge_size)
        return int(image.image_processor.merge_size)


class MultimodalRopeAdapter(_GridAdapter):
    """Image tokens have a row and a column as their positions (M-RoPE).

    The model makes these positions itself, of the kind of each token and the grid of
    each image; those of the answer count on from what the decoder got for the prompt.
    """

    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "mm_token_type_ids": 0,
    }
    required_inputs: ClassVar[tuple[str, ...]] = ("image_grid_thw", "mm_token_type_ids")
    position_offset: ClassVar[int | None] = None


class QwenVLAdapter(MultimodalRopeAdapter):
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL (with deepstack) and Qwen3.5 (a hybrid)."""

    name: ClassVar[str] = "Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5"
    model_types: ClassVar[tuple[str, ...]] = (
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "qwen3_5",
    )
    processor_types: ClassVar[tuple[str, ...]] = (
        "Qwen2VLProcessor",
        "Qwen2_5_VLProcessor",
        "Qwen3VLProcessor",
    )
    steps_run_on: ClassVar[str] = "a cache of the prompt; of Qwen3.5 one full pass"

    def vision_order(
        self, layer: str, inputs: Mapping[str, Any], config: Any
    ) -> Tensor | None:
        """See :meth:`FamilyAdapter.vision_order`; Qwen2.5-VL keeps its windows
        together, from the first block to the merger."""
        vision = config.vision_config
        is_windowed = ".visual.blocks" in layer or ".visual.merger" in layer
        if not is_windowed or getattr(vision, "window_size", None) is None:
            return None
        order: Tensor = get_vision_window_index(
            torch.as_tensor(inputs["image_grid_thw"]),
            spatial_merge_size=vision.spatial_merge_size,
            window_size=vision.window_size,
            patch_size=vision.patch_size,
        )[0]
        return order.cpu()


class Glm4vAdapter(MultimodalRopeAdapter):
    """GLM-4V (GLM-4.1V) and GLM-4.6V."""

    name: ClassVar[str] = "GLM-4V, GLM-4.6V"
    model_types: ClassVar[tuple[str, ...]] = ("glm4v", "glm46v")
    processor_types: ClassVar[tuple[str, ...]] = ("Glm4vProcessor", "Glm46VProcessor")


class VideoLlama3Adapter(_GridAdapter):
    """Images of VideoLLaMA 3: plain positions, and a merge size for each image."""

    name: ClassVar[str] = "VideoLLaMA 3 (images)"
    model_types: ClassVar[tuple[str, ...]] = ("video_llama_3",)
    processor_types: ClassVar[tuple[str, ...]] = ("VideoLlama3Processor",)
    required_inputs: ClassVar[tuple[str, ...]] = ("image_grid_thw", "image_merge_sizes")
    grid_inputs: ClassVar[tuple[str, ...]] = ("image_grid_thw", "image_merge_sizes")

    def merge_size(self, image: PreparedImage) -> int:
        """See :meth:`_GridAdapter.merge_size`."""
        return int(image.entry("image_merge_sizes"))
