"""MiniCPM-V 4.6, 4.7 and MiniCPM-OCR: a copy and two slices of their own sizes."""

from functools import partial
from typing import Any

import torch
import transformers
from tests.families.cases.patch_grid import with_rope
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import IMAGE_TOKEN, roughen, VOCABULARY
from torch import nn, Tensor

PATCH = 4
HIDDEN = 48
# The last ids of the vocabulary, by the names that the tokenizer has for them.
MARKERS = {
    "image_start_token": "<im_start>",
    "image_end_token": "<im_end>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
    "video_token": "<video>",
    "newline_token": "\n",
}
FIRST_MARKER = VOCABULARY - len(MARKERS)
IDS = {name: FIRST_MARKER + number for number, name in enumerate(MARKERS)}
TEXT: dict[str, Any] = {
    **with_rope(
        mrope_interleaved=True, mrope_section=[2, 1, 1], partial_rotary_factor=0.25
    ),
    "hidden_size": HIDDEN,
    "head_dim": 32,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "num_hidden_layers": 3,
    "layer_types": ["full_attention", "linear_attention", "full_attention"],
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": PATCH,
}
# The model's classes begin with these names, which older versions may not have.
CLASSES = {
    "minicpmv4_6": "MiniCPMV4_6",
    "minicpmv4_6_fine": "MiniCPMV4_6",
    "minicpmv4_7": "MiniCPMV4_7",
    "minicpm_ocr": "MiniCPMOcr",
}
# Patches of the copy and of the slices; every second picture is turned.
SIZES = [[8, 8], [4, 8], [4, 8]]
# Side of the square of patches that makes a token.
MERGE = {name: 4 for name in CLASSES} | {"minicpmv4_6_fine": 2, "minicpm_ocr": 2}


def build(variant: str, seed: int = 0, implementation: str = "sdpa") -> nn.Module:
    markers = {}
    if variant == "minicpmv4_7":
        markers = {
            name.replace("_token", "_id"): IDS[name]
            for name in (*list(MARKERS)[:4], "newline_token")
        }
    text = transformers.Qwen3_5TextConfig(**TEXT)
    config = getattr(transformers, f"{CLASSES[variant]}Config")(
        text_config=text,
        vision_config=VISION,
        image_token_id=IMAGE_TOKEN,
        video_token_id=IDS["video_token"],
        insert_layer_id=0,
        downsample_mode="4x" if MERGE[variant] == 2 else "16x",
        tie_word_embeddings=False,
        **markers,
    )
    kind = getattr(transformers, f"{CLASSES[variant]}ForConditionalGeneration")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = kind(config)
        roughen(model)
        with torch.no_grad():
            # The placeholder is no answer.
            model.lm_head.weight[IMAGE_TOKEN] = 0.0
            # The window merger starts with large weights.
            for parameter in model.model.vision_tower.vit_merger.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(0.1)
    model.set_attn_implementation(implementation)
    built: nn.Module = model.eval()
    return built


def inputs(variant: str, seed: int, before: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [size[:: -1 if seed % 2 else 1] for size in SIZES]
    lengths = [rows * columns // MERGE[variant] ** 2 for rows, columns in sizes]
    words = torch.randint(5, FIRST_MARKER, (before + 6,), generator=generator).tolist()
    ids = words[:before] + [IDS["image_start_token"]]
    ids += [IMAGE_TOKEN] * lengths[0] + [IDS["image_end_token"]]
    for number, length in enumerate(lengths[1:]):
        ids += [IDS["newline_token"]] * number + [IDS["slice_start_token"]]
        ids += [IMAGE_TOKEN] * length + [IDS["slice_end_token"]]
    num_patches = sum(rows * columns for rows, columns in sizes)
    pixels = torch.randn(1, 3, PATCH, num_patches * PATCH, generator=generator)
    input_ids = torch.tensor([ids + words[before:]])
    made: dict[str, Tensor] = {
        "input_ids": input_ids,
        "pixel_values": pixels,
        "target_sizes": torch.tensor(sizes, dtype=torch.int32),
    }
    if variant == "minicpmv4_7":
        made["mm_token_type_ids"] = (input_ids == IMAGE_TOKEN).int()
    return made


CASES = tuple(
    FamilyCase(
        variant,
        partial(build, variant),
        partial(inputs, variant),
        tolerance=5e-5 if variant == "minicpmv4_6" else 1e-5,
        implementations=("sdpa",),
    )
    for variant in CLASSES
)
