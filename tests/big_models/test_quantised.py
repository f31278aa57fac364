"""A model of quantised weights is explained, or refused."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from captum_dexar.decoding import DecodingSteps
from captum_dexar.decoding.step_attributions import StepAttributions
from captum_dexar.inputs import Prompt
from tests.helpers.explained import assert_same, explained, relative_error
from tests.helpers.literal import assert_literal, WAYS
from tests.helpers.tiny_models import (
    IMAGE_TOKEN,
    NUM_IMAGE_TOKENS,
    prompt_inputs,
    random_targets,
    roughen,
    VOCABULARY,
)
from tests.helpers.untouched import untouched, warm
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

pytestmark = pytest.mark.filterwarnings("ignore:The map of the whole answer is zero")
TARGET = [40, 41, 42]
FEW = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
CPU = torch.device("cpu")


def saved_llava(folder: Path, seed: int) -> Path:
    """A LLaVA whose matrices are of whole blocks of 64, which 4 bits are packed in."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=CLIPVisionConfig(
                    hidden_size=64,
                    intermediate_size=64,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    image_size=32,
                    patch_size=8,
                ),
                text_config=LlamaConfig(
                    vocab_size=VOCABULARY,
                    hidden_size=64,
                    intermediate_size=128,
                    num_hidden_layers=3,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    max_position_embeddings=512,
                    pad_token_id=0,
                    bos_token_id=1,
                    eos_token_id=2,
                ),
                image_token_index=IMAGE_TOKEN,
                vision_feature_layer=-2,
                vision_feature_select_strategy="default",
                image_seq_length=NUM_IMAGE_TOKENS,
            )
        )
        roughen(model)
    model.save_pretrained(folder)
    return folder


def quantised(folder: Path, seed: int = 0, **options: Any) -> Any:
    pytest.importorskip("bitsandbytes", reason="it is what quantises the weights")
    return AutoModelForImageTextToText.from_pretrained(
        saved_llava(folder, seed),
        quantization_config=BitsAndBytesConfig(**options),
        device_map="cpu",
        dtype=torch.float32,
    )


def by(engine: str, model: nn.Module, seed: int) -> StepAttributions:
    steps = DecodingSteps(Prompt(model, prompt_inputs(seed)), random_targets(4, seed))
    return LayerDexAR(model, engine=engine).attribute_steps(steps)


FOUR_BITS: dict[str, dict[str, Any]] = {
    "nf4": {"bnb_4bit_quant_type": "nf4"},
    "fp4_twice": {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
    "mlp_only": {"llm_int8_skip_modules": ["self_attn", "lm_head"]},
}


@pytest.mark.parametrize("options", FOUR_BITS.values(), ids=list(FOUR_BITS))
def test_weights_of_4_bits(tmp_path: Path, options: dict[str, Any]) -> None:
    """They are restored before they are multiplied, so that what is explained is the
    model of the restored weights, up to rounding."""
    model = quantised(
        tmp_path,
        load_in_4bit=True,
        bnb_4bit_compute_dtype=torch.float32,
        **options,
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Packed for it, they have no backward pass.
            module.support_avx512bf16_for_cpu = False
    inputs, targets = prompt_inputs(), random_targets(4)
    with untouched(warm(model, inputs)):
        attr = by("closed_form", model, 0)
    assert_same(attr, by("autograd", model, 0))
    restored = copy.deepcopy(model).dequantize().float().eval()
    assert not any(weight.dtype == torch.uint8 for weight in restored.parameters())
    assert_same(attr, explained(restored, inputs, targets, engine="autograd"))


@pytest.mark.parametrize("options", FOUR_BITS.values(), ids=list(FOUR_BITS))
def test_weights_of_4_bits_without_backward_pass_are_refused(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    model = quantised(
        tmp_path, load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, **options
    )
    layer = model.model.language_model.layers[0]
    if not layer.mlp.down_proj.support_avx512bf16_for_cpu:
        pytest.skip("this processor has no AVX512-BF16, for which they are packed")
    for engine in ("closed_form", "autograd"):
        with pytest.raises(RuntimeError, match="layer 0 .* no backward pass"):
            by(engine, model, 0)


@pytest.mark.parametrize("seed", range(4))
def test_weights_of_8_bits(tmp_path: Path, seed: int) -> None:
    """Each row of the activations is rounded by itself, the same in every pass: the
    closed form equals autograd as it does in float32."""
    model = quantised(tmp_path, seed, load_in_8bit=True)
    inputs = prompt_inputs(seed)
    with untouched(warm(model, inputs)):
        attr = by("closed_form", model, seed)
    assert_same(attr, by("autograd", model, seed))
    method = VLMAttribution(LayerDexAR(model))
    answer = method.attribute(inputs, gen_args=FEW)
    again = method.attribute(inputs, target=answer.target_ids)
    assert relative_error(again.token_attr, answer.token_attr) <= 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_outliers_among_8_bits(tmp_path: Path, seed: int) -> None:
    """Columns in which any row of a pass has an outlier are not rounded, so that one
    pass over all rows and growing prefixes round differently.

    An activation moves by up to half a step of 1/127 of its row's largest. Allowed is
    two steps: one in the forward pass up to a layer, one from there to its reading.
    """
    model = quantised(tmp_path, seed, load_in_8bit=True, llm_int8_threshold=1.0)
    attr, reference = by("closed_form", model, seed), by("autograd", model, seed)
    assert relative_error(attr.token_attr, reference.token_attr) <= 2 / 127
    method = VLMAttribution(LayerDexAR(model))
    answer = method.attribute(prompt_inputs(seed), gen_args=FEW)
    assert answer.token_attr.isfinite().all()


# torchao.


def quantised_by_torchao(
    folder: Path, config: str, keep: Callable[[str], bool]
) -> nn.Module:
    quantization: Any = pytest.importorskip(
        "torchao.quantization", reason="it is what quantises the weights"
    )
    model = AutoModelForImageTextToText.from_pretrained(
        saved_llava(folder, 0), dtype=torch.float32
    )
    quantization.quantize_(
        model,
        getattr(quantization, config)(),
        lambda module, name: isinstance(module, nn.Linear) and keep(name),
    )
    quantized: nn.Module = model.eval()
    return quantized


PARTS: dict[str, Callable[[str], bool]] = {
    "all": lambda name: True,
    "mlp": lambda name: "language_model" in name and ".mlp." in name,
}


@pytest.mark.parametrize("part", PARTS)
def test_torchao_weights_of_8_bits(tmp_path: Path, part: str) -> None:
    model = quantised_by_torchao(tmp_path, "Int8WeightOnlyConfig", PARTS[part])
    for way in ("given_list", "generated", "streamed"):
        assert_literal(model, way, in_float64=False)


@pytest.mark.parametrize("engine", ["closed_form", "autograd"])
@pytest.mark.parametrize("part", PARTS)
def test_torchao_activations_of_8_bits_are_refused(
    tmp_path: Path, part: str, engine: str
) -> None:
    """No gradient passes through them: of the MLP alone it would be left out."""
    config = "Int8DynamicActivationInt8WeightConfig"
    model = quantised_by_torchao(tmp_path, config, PARTS[part])
    for way in WAYS.values():
        with pytest.raises(
            RuntimeError, match="Int8Tensor.*quantise the weights alone"
        ):
            way(LayerDexAR(model, engine=engine))
