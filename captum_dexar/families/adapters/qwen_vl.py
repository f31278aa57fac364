"""Qwen2-VL to Qwen3.5 and Qwen4, with and without experts, and Qwen-Omni."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.shared.patch_grid import MultimodalRopeAdapter
from torch import Tensor


class QwenVLAdapter(MultimodalRopeAdapter):
    """Qwen3-VL adds image features in several layers (deepstack); Qwen3.5 has recurrent
    layers, whose cache can't be cut back."""

    name: ClassVar[str] = "Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5, Qwen4"
    model_types: ClassVar[tuple[str, ...]] = (
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "qwen3_vl_moe",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen4_exp",
    )
    processor_types: ClassVar[tuple[str, ...]] = (
        "Qwen2VLProcessor",
        "Qwen2_5_VLProcessor",
        "Qwen3VLProcessor",
    )
    steps_run_on: ClassVar[str] = "a cache of the prompt; Qwen3.5, Qwen4: one full pass"

    def vision_order(
        self, layer: str, inputs: Mapping[str, Any], config: Any
    ) -> Tensor | None:
        """See :meth:`FamilyAdapter.vision_order`.

        Qwen2.5-VL orders tokens by attention window, from the first block of the vision
        tower to the merger.
        """
        vision = config.vision_config
        window_size = getattr(vision, "window_size", None)
        is_windowed = ".visual.blocks" in layer or ".visual.merger" in layer
        if not is_windowed or window_size is None:
            return None
        merge = vision.spatial_merge_size
        window = window_size // merge // vision.patch_size
        orders: list[Tensor] = []
        start = 0
        for frames, height, width in torch.as_tensor(inputs["image_grid_thw"]).tolist():
            rows, columns = torch.arange(height // merge), torch.arange(width // merge)
            across = -(-len(columns) // window)
            # A window's number goes up row by row, frame by frame; within a window
            # tokens stay in order.
            number = (rows // window)[:, None] * across + columns // window
            frame = torch.arange(frames)[:, None, None] * (number.max() + 1)
            order = (frame + number).flatten().argsort(stable=True)
            orders.append(order + start)
            start += len(order)
        return torch.cat(orders)


class QwenOmniAdapter(QwenVLAdapter):
    """Positions follow from the ids and the grids, without types of tokens."""

    name: ClassVar[str] = "Qwen2.5-Omni, Qwen3-Omni (images)"
    model_types: ClassVar[tuple[str, ...]] = (
        "qwen2_5_omni_thinker",
        "qwen3_omni_moe_thinker",
    )
    processor_types: ClassVar[tuple[str, ...]] = (
        "Qwen2_5OmniProcessor",
        "Qwen3OmniMoeProcessor",
    )
    required_inputs: ClassVar[tuple[str, ...]] = ("image_grid_thw",)
    steps_run_on: ClassVar[str] = "a cache of the prompt"
