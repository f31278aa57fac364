"""Qwen2-VL to Qwen3.5 and Qwen4, with and without experts, and Qwen-Omni."""

from typing import ClassVar

from captum_dexar.families.shared.patch_grid import MultimodalRopeAdapter


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
    # Qwen2.5-VL's; the others have no windows.
    windowed_layers: ClassVar[tuple[str, ...]] = (".visual.blocks", ".visual.merger")


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
