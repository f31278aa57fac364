"""A model of quantised weights is explained, or refused."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from captum_dexar.decoding import DecodingSteps
from captum_dexar.decoding.step_attributions import StepAttributions
from captum_dexar.inputs import Prompt
from tests.big_models.quantisations import (
    by_bitsandbytes,
    Quantisation,
    QUANTISATIONS,
    TORCHAO,
)
from tests.helpers.explained import assert_same, explained, relative_error
from tests.helpers.literal import assert_literal, WAYS
from tests.helpers.tiny_models import prompt_inputs, random_targets
from tests.helpers.untouched import untouched, warm
from torch import nn
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

TARGET = [40, 41, 42]
FEW = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
CPU = torch.device("cpu")


def quantised(folder: Path, seed: int = 0, **options: Any) -> Any:
    pytest.importorskip("bitsandbytes", reason="it is what quantises the weights")
    return by_bitsandbytes(folder, seed, **options)


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


# Every kind that a library lists.


def check(kind: Quantisation, folder: Path, **options: Any) -> None:
    """Explained as plain autograd explains it, or refused."""
    if kind.make is None:
        pytest.skip(f"untried: needs {kind.needs}")
    pytest.importorskip(kind.needs, reason="it is what quantises the weights")
    model = kind.make(folder, **options)
    if kind.refused is None:
        # BitNet's layers have functions that compiling takes minutes.
        with torch.compiler.set_stance("force_eager"):
            for way in ("given_list", "generated", "streamed"):
                assert_literal(model, way, in_float64=False)
        return
    for engine in ("closed_form", "autograd"):
        for explain in WAYS.values():
            with pytest.raises(RuntimeError, match=kind.refused):
                explain(LayerDexAR(model, engine=engine))


TRIED = [name for name, kind in QUANTISATIONS.items() if kind.make is not None]
PARTS: dict[str, Callable[[str], bool]] = {
    "all": lambda name: True,
    # Other parts of a layer would still have a gradient.
    "mlp": lambda name: "language_model" in name and ".mlp." in name,
}


@pytest.mark.parametrize("name", TRIED)
def test_kinds_of_transformers(tmp_path: Path, name: str) -> None:
    check(QUANTISATIONS[name], tmp_path)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "name", [name for name, kind in TORCHAO.items() if kind.refused is not None]
)
def test_torchao_configs_without_gradient(tmp_path: Path, name: str, part: str) -> None:
    """Of the MLP alone it would be left out."""
    check(TORCHAO[name], tmp_path, keep=PARTS[part])


@pytest.mark.parametrize(
    "name",
    [name for name, kind in TORCHAO.items() if kind.make and kind.refused is None],
)
def test_torchao_configs(tmp_path: Path, name: str) -> None:
    check(TORCHAO[name], tmp_path)


def listed(table: Mapping[str, Quantisation]) -> set[str]:
    return {name.partition(",")[0] for name in table}


def test_every_kind_of_transformers_is_in_the_table() -> None:
    """A newer version may have more, and an older one less."""
    assert set(AUTO_QUANTIZATION_CONFIG_MAPPING) <= listed(QUANTISATIONS)


def test_every_config_of_torchao_is_in_the_table() -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="it has the list")
    configs = {name for name in dir(quantization) if name.endswith("Config")}
    assert configs - {"AOBaseConfig"} <= listed(TORCHAO)


@pytest.mark.parametrize("name", [n for n, k in QUANTISATIONS.items() if k.tested])
def test_tests_that_the_table_names_exist(name: str) -> None:
    assert QUANTISATIONS[name].tested in globals()
