"""Other families with M-RoPE and one grid per image."""

from collections.abc import Mapping
from typing import Any, ClassVar

from captum_dexar.families.shared.patch_grid import MultimodalRopeAdapter


class CohereCompassAdapter(MultimodalRopeAdapter):
    """Image features are added in several layers (deepstack)."""

    name: ClassVar[str] = "Cohere Compass"
    model_types: ClassVar[tuple[str, ...]] = ("cohere_compass",)
    processor_types: ClassVar[tuple[str, ...]] = ("CohereCompassProcessor",)


class Cosmos3Adapter(MultimodalRopeAdapter):
    """Cosmos 3 Omni reads images as Qwen3-VL does, with its processor."""

    name: ClassVar[str] = "Cosmos 3"
    model_types: ClassVar[tuple[str, ...]] = ("cosmos3_omni", "cosmos3_edge")
    processor_types: ClassVar[tuple[str, ...]] = ("Cosmos3EdgeProcessor",)
    # Cosmos 3 Edge's processor makes them on request only.
    call_settings: ClassVar[Mapping[str, Any]] = {"return_mm_token_type_ids": True}


class Ernie45VLAdapter(MultimodalRopeAdapter):
    """Tokens of the image have experts of their own."""

    name: ClassVar[str] = "ERNIE 4.5 VL"
    model_types: ClassVar[tuple[str, ...]] = ("ernie4_5_vl_moe",)
    processor_types: ClassVar[tuple[str, ...]] = ("Ernie4_5_VLMoeProcessor",)
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        **MultimodalRopeAdapter.sequence_inputs,
        "moe_mm_token_type_ids": 0,
    }
    required_inputs: ClassVar[tuple[str, ...]] = (
        *MultimodalRopeAdapter.required_inputs,
        "moe_mm_token_type_ids",
    )


class PaddleOCRVLAdapter(MultimodalRopeAdapter):
    """Patches are in the order of the rows of the image."""

    name: ClassVar[str] = "PaddleOCR-VL"
    model_types: ClassVar[tuple[str, ...]] = ("paddleocr_vl",)
    processor_types: ClassVar[tuple[str, ...]] = ("PaddleOCRVLProcessor",)
    pixel_dims: ClassVar[int] = 4
    in_raster_order: ClassVar[bool] = True
