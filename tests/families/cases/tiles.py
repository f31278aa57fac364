"""InternVL, Qianfan-OCR, Aya Vision, Cohere2 Vision, Ovis2, GOT-OCR 2,
PP-Chart2Table, Perception LM."""

from functools import partial
from typing import Any

import torch
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY
from torch import nn
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    Cohere2Config,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    GotOcr2Config,
    GotOcr2ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    Ovis2VisionConfig,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
    PPChart2TableConfig,
    QianfanOCRConfig,
    QianfanOCRForConditionalGeneration,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
    ViTConfig,
)
from transformers.models.got_ocr2.configuration_got_ocr2 import GotOcr2VisionConfig
from transformers.models.pp_chart2table.configuration_pp_chart2table import (
    PPChart2TableVisionConfig,
)
from transformers.models.qianfan_ocr.configuration_qianfan_ocr import (
    QianfanOCRVisionConfig,
)

TILE, PATCH, MERGE = 32, 4, 2
SIDE = TILE // PATCH // MERGE
TOKENS_OF_TILE = SIDE * SIDE
TOKEN_PIXELS = PATCH * MERGE
# GOT-OCR 2 and PP-Chart2Table make a token of a square of 4 x 4 patches.
OCR = ("got_ocr2", "pp_chart2table")
OCR_TILE, OCR_MERGE = 64, 4
OCR_TOKENS_OF_TILE = (OCR_TILE // PATCH // OCR_MERGE) ** 2
# Ids of Ovis2's indicator tokens: the last of the vocabulary.
INDICATORS = list(range(VOCABULARY - 5, VOCABULARY))
WINDOW = 8
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
COHERE: dict[str, Any] = {
    **TEXT,
    "num_hidden_layers": 4,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "logit_scale": 0.25,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": TILE,
    "patch_size": PATCH,
}


def internvl() -> nn.Module:
    return InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config=InternVLVisionConfig(**VISION),
            text_config=Qwen2Config(**TEXT),
            image_token_id=IMAGE_TOKEN,
            image_seq_length=TOKENS_OF_TILE,
            downsample_ratio=1 / MERGE,
        )
    )


def qianfan_ocr() -> nn.Module:
    return QianfanOCRForConditionalGeneration(
        QianfanOCRConfig(
            vision_config=QianfanOCRVisionConfig(**VISION, drop_path_rate=0.0),
            text_config=Qwen3Config(**TEXT, head_dim=12),
            image_token_id=IMAGE_TOKEN,
            image_seq_length=TOKENS_OF_TILE,
            downsample_ratio=1 / MERGE,
        )
    )


def got_ocr2(config: Any = GotOcr2Config, vision: Any = GotOcr2VisionConfig) -> Any:
    return GotOcr2ForConditionalGeneration(
        config(
            vision_config=vision(
                image_size=OCR_TILE,
                patch_size=PATCH,
                hidden_size=16,
                output_channels=8,
                num_hidden_layers=2,
                num_attention_heads=2,
                window_size=3,
                global_attn_indexes=[1],
                mlp_dim=24,
                # The default leaves features that are all but zero.
                initializer_range=0.1,
            ),
            text_config=Qwen2Config(**TEXT),
            image_token_index=IMAGE_TOKEN,
            image_seq_length=OCR_TOKENS_OF_TILE,
        )
    )


def perception_lm() -> nn.Module:
    """With a ViT, which does not need timm, as its vision tower."""
    return PerceptionLMForConditionalGeneration(
        PerceptionLMConfig(
            vision_config=ViTConfig(
                **VISION, model_args={"embed_dim": VISION["hidden_size"]}
            ),
            text_config=LlamaConfig(**TEXT),
            projector_pooling_ratio=MERGE,
            image_token_id=IMAGE_TOKEN,
            video_token_id=VOCABULARY - 1,
        )
    )


def aya_vision() -> nn.Module:
    return AyaVisionForConditionalGeneration(
        AyaVisionConfig(
            vision_config=SiglipVisionConfig(**VISION, vision_use_head=False),
            text_config=Cohere2Config(**COHERE),
            image_token_index=IMAGE_TOKEN,
            downsample_factor=MERGE,
        )
    )


def cohere2_vision() -> nn.Module:
    return Cohere2VisionForConditionalGeneration(
        Cohere2VisionConfig(
            vision_config=SiglipVisionConfig(**VISION, vision_use_head=False),
            text_config=Cohere2Config(**COHERE),
            image_token_id=IMAGE_TOKEN,
            downsample_factor=MERGE,
            alignment_intermediate_size=64,
        )
    )


def ovis2() -> nn.Module:
    return Ovis2ForConditionalGeneration(
        Ovis2Config(
            vision_config=Ovis2VisionConfig(
                **VISION, vocab_size=40, hidden_stride=MERGE
            ),
            text_config=Qwen2Config(**TEXT),
            image_token_id=IMAGE_TOKEN,
            visual_indicator_token_ids=INDICATORS,
            vocab_size=VOCABULARY,
            hidden_size=TEXT["hidden_size"],
        )
    )


MAKERS: dict[str, Any] = {
    "internvl": internvl,
    "qianfan_ocr": qianfan_ocr,
    "got_ocr2": got_ocr2,
    "pp_chart2table": partial(got_ocr2, PPChart2TableConfig, PPChart2TableVisionConfig),
    "perception_lm": perception_lm,
    "aya_vision": aya_vision,
    "cohere2_vision": cohere2_vision,
    "ovis2": ovis2,
}


def build(variant: str, seed: int = 0, implementation: str = "sdpa") -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = MAKERS[variant]()
        roughen(model)
    # SAM's attention has no choice of implementations.
    part = model.model.language_model if variant in OCR else model
    part.set_attn_implementation(implementation)
    made: nn.Module = model.eval()
    return made


def inputs(variant: str, seed: int, before: int) -> dict[str, Any]:
    """A row of two tiles and a copy of the whole, in some families with text between
    them; PP-Chart2Table has no tiles."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(4, VOCABULARY - 5, (before + 6,), generator=generator)
    text: list[int] = words.tolist()
    is_ocr = variant in OCR
    between = [INDICATORS[1] if variant == "ovis2" else 50]
    if is_ocr or variant in ("qianfan_ocr", "perception_lm"):
        between = []
    grid = [IMAGE_TOKEN] * (OCR_TOKENS_OF_TILE if is_ocr else TOKENS_OF_TILE)
    tile = OCR_TILE if is_ocr else TILE
    pictures = 1 if variant == "pp_chart2table" else 3
    image = [*grid, *between, *grid, *between, *grid] if pictures > 1 else grid
    pixels = torch.randn(pictures, 3, tile, tile, generator=generator)
    return {
        "input_ids": torch.tensor([text[:before] + image + text[before:]]),
        "pixel_values": pixels[None] if variant == "perception_lm" else pixels,
    }


# Whose attention is compared under both implementations.
BOTH = ("internvl", "aya_vision", "cohere2_vision", "ovis2")
CASES = tuple(
    FamilyCase(
        variant,
        partial(build, variant),
        partial(inputs, variant),
        implementations=("sdpa", "eager") if variant in BOTH else ("sdpa",),
    )
    for variant in MAKERS
)
