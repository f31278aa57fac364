"""Families with one grid per image whose tokens have plain positions."""

from typing import ClassVar

from captum_dexar.families.shared.patch_grid import PatchGridAdapter


class PlainGridAdapter(PatchGridAdapter):
    """One grid per image; an image token's position is a running count, as text's."""

    name: ClassVar[str] = "EXAONE 4.5, LFM3-VL, HyperCLOVA X Vision 2, dots3"
    model_types: ClassVar[tuple[str, ...]] = (
        "exaone4_5",
        "lfm3_vl",
        "hyperclovax_vision_v2",
        "dots3_note",
    )
    processor_types: ClassVar[tuple[str, ...]] = (
        "Exaone4_5_Processor",
        "Lfm3VlProcessor",
        "HyperCLOVAXVisionV2Processor",
        "Dots3NoteProcessor",
    )
    required_inputs: ClassVar[tuple[str, ...]] = ("image_grid_thw",)
    # EXAONE's and HyperCLOVA X's vision towers are like Qwen2.5-VL's.
    windowed_layers: ClassVar[tuple[str, ...]] = (
        ".visual.blocks",
        ".visual.merger",
        ".vision_model.blocks",
        ".vision_model.merger",
    )


class MiniMaxM3Adapter(PlainGridAdapter):
    """Its layers choose blocks of keys, which are counted from a prompt's padding."""

    name: ClassVar[str] = "MiniMax M3"
    model_types: ClassVar[tuple[str, ...]] = ("minimax_m3_vl",)
    processor_types: ClassVar[tuple[str, ...]] = ("MiniMaxM3VLProcessor",)
    boxes_checked: ClassVar[str] = "end to end, where torchvision is installed"
    can_be_batched: ClassVar[bool] = False
