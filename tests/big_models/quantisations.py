"""Every kind of quantised weights that transformers and torchao list, on a tiny LLaVA,
and what becomes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tests.helpers.tiny_models import (
    IMAGE_TOKEN,
    NUM_IMAGE_TOKENS,
    prompt_inputs,
    roughen,
    VOCABULARY,
)
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    QuantoConfig,
)


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


def loaded(folder: Path, seed: int = 0, **options: Any) -> Any:
    return AutoModelForImageTextToText.from_pretrained(
        saved_llava(folder, seed), dtype=torch.float32, **options
    ).eval()


@dataclass(frozen=True, eq=False)
class Quantisation:
    """A kind of quantised weights.

    Attributes:
        outcome: for the table: explained, refused or untried
        make: makes a quantised model, in a folder; None if that takes what a CPU or the
            installed libraries lack
        needs: the library, or what keeps it from being tried
        refused: what the error says, as a regular expression
        tested: the test, if it has one of its own
    """

    outcome: str
    needs: str = ""
    make: Callable[..., nn.Module] | None = None
    refused: str | None = None
    tested: str = ""


def untried(needs: str) -> Quantisation:
    return Quantisation("untried", needs)


def projections_replaced(
    model: Any, replacement: Callable[[nn.Linear], nn.Module], only: str = ""
) -> Any:
    """A model whose decoder layers have other projections."""
    for layer in model.model.language_model.layers:
        for module in list(layer.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear) and name.endswith(only):
                    setattr(module, name, replacement(child))
    return model.eval()


# Made by their libraries.


def by_bitsandbytes(folder: Path, seed: int, **options: Any) -> Any:
    config = BitsAndBytesConfig(**options)
    return loaded(folder, seed, quantization_config=config, device_map="cpu")


def by_quanto(folder: Path, bits: str) -> Any:
    return loaded(folder, quantization_config=QuantoConfig(weights=bits))


def by_quanto_with_activations(folder: Path) -> Any:
    quanto: Any = import_module("optimum.quanto")

    model = loaded(folder)
    text = model.model.language_model
    quanto.quantize(text, weights=quanto.qint8, activations=quanto.qfloat8)
    with torch.no_grad(), quanto.Calibration():
        model(**prompt_inputs(1))
    quanto.freeze(text)
    return model


def by_hqq(folder: Path, bits: int) -> Any:
    hqq: Any = import_module("hqq.core.quantize")
    config = hqq.BaseQuantizeConfig(nbits=bits, group_size=64)
    made = partial(
        hqq.HQQLinear, quant_config=config, compute_dtype=torch.float32, device="cpu"
    )
    return projections_replaced(loaded(folder), made)


def by_compressed_tensors(folder: Path, activations: bool) -> Any:
    """The MLPs alone: the gradient of a layer would have the other parts."""
    compressed: Any = import_module("compressed_tensors.quantization")

    eight = {"num_bits": 8, "symmetric": True}
    rounded = compressed.QuantizationArgs(**eight, dynamic=True, strategy="token")
    scheme = compressed.QuantizationScheme(
        targets=["re:.*language_model.*mlp.*proj"],
        weights=compressed.QuantizationArgs(**eight, strategy="channel"),
        input_activations=rounded if activations else None,
    )
    config = compressed.QuantizationConfig(config_groups={"one": scheme})
    model = loaded(folder)
    compressed.apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            largest = module.weight.detach().abs().amax(1, keepdim=True)
            module.weight_scale.data.copy_(largest / 127)
    return model.eval()


def _bitnet_online(layer: nn.Linear) -> nn.Module:
    from transformers.integrations.bitnet import AutoBitLinear

    rows, columns = layer.weight.shape
    made: Any = AutoBitLinear(columns, rows, bias=False, online_quant=True)
    made.weight.data = layer.weight.data
    module: nn.Module = made
    return module


def _bitnet_packed(layer: nn.Linear) -> nn.Module:
    from transformers.integrations.bitnet import BitLinear, pack_weights

    rows, columns = layer.weight.shape
    made: Any = BitLinear(columns, rows, bias=False, dtype=torch.float32)
    weight = layer.weight.detach()
    scale = 1 / weight.abs().mean()
    made.weight = pack_weights((weight * scale).round().clamp(-1, 1))
    made.weight_scale = scale.reshape(1)
    module: nn.Module = made
    return module


def of_bitnet(folder: Path, packed: bool) -> Any:
    if packed:
        return projections_replaced(loaded(folder), _bitnet_packed, "down_proj")
    return projections_replaced(loaded(folder), _bitnet_online)


NO_BACKWARD = "has no backward pass"
GPU = "an NVIDIA or Intel GPU"
# By the name in transformers' AUTO_QUANTIZATION_CONFIG_MAPPING, and what is behind it.
QUANTISATIONS: dict[str, Quantisation] = {
    "aqlm": untried("weights that were quantised before, and aqlm"),
    "auto-round": untried("weights that were quantised before, and auto-round"),
    "awq": untried("weights that were quantised before, and gptqmodel"),
    "bitnet, packed": Quantisation(
        "refused",
        "transformers",
        partial(of_bitnet, packed=True),
        f"BitLinear of the decoder {NO_BACKWARD}",
    ),
    "bitnet, autobitlinear": Quantisation(
        "explained", "transformers", partial(of_bitnet, packed=False)
    ),
    "bitsandbytes_4bit": Quantisation(
        "explained", "bitsandbytes", tested="test_weights_of_4_bits"
    ),
    "bitsandbytes_4bit, on CPUs with AVX512-BF16": Quantisation(
        "refused",
        "bitsandbytes",
        tested="test_weights_of_4_bits_without_backward_pass_are_refused",
    ),
    "bitsandbytes_8bit": Quantisation(
        "explained", "bitsandbytes", tested="test_weights_of_8_bits"
    ),
    "compressed-tensors, weights": Quantisation(
        "explained",
        "compressed_tensors",
        partial(by_compressed_tensors, activations=False),
    ),
    "compressed-tensors, activations": Quantisation(
        "refused",
        "compressed_tensors",
        partial(by_compressed_tensors, activations=True),
        NO_BACKWARD,
    ),
    "eetq": untried("an NVIDIA GPU"),
    "fbgemm_fp8": untried(GPU),
    "fouroversix": untried("fouroversix, which is built from source"),
    "fp8": untried(f"{GPU}; without one it is restored when it is loaded"),
    "fp_quant": untried(GPU),
    "gemma": untried("weights that were quantised before"),
    "gguf": untried("a GGUF file; without kernels it is restored when it is loaded"),
    "gptq": untried("gptqmodel, which is built from source"),
    "higgs": untried("an NVIDIA GPU"),
    "hqq, 8 bits": Quantisation("explained", "hqq", partial(by_hqq, bits=8)),
    "hqq, 4 bits": Quantisation("explained", "hqq", partial(by_hqq, bits=4)),
    "metal": untried("a GPU of Apple's"),
    "mxfp4": untried("triton"),
    "mxfp8": untried(f"{GPU}; without one it is restored when it is loaded"),
    "nvfp4": untried("an NVIDIA GPU"),
    "quanto, int8": Quantisation(
        "explained", "optimum.quanto", partial(by_quanto, bits="int8")
    ),
    "quanto, int4": Quantisation(
        "explained", "optimum.quanto", partial(by_quanto, bits="int4")
    ),
    "quanto, float8": Quantisation(
        "explained", "optimum.quanto", partial(by_quanto, bits="float8")
    ),
    "quanto, float8 activations": Quantisation(
        "explained", "optimum.quanto", by_quanto_with_activations
    ),
    "quark": untried("weights that were quantised before, and quark"),
    "sinq": untried("sinq"),
    "spqr": untried("an NVIDIA GPU"),
    "torchao": Quantisation("explained", "torchao", tested="test_torchao_configs"),
    "vptq": untried("an NVIDIA GPU"),
}


# torchao.


def by_torchao(
    folder: Path,
    config: str,
    keep: Callable[[str], bool] = lambda name: True,
    **options: Any,
) -> Any:
    quantization: Any = import_module("torchao.quantization")

    model = loaded(folder)
    quantization.quantize_(
        model,
        getattr(quantization, config)(**options),
        lambda module, name: isinstance(module, nn.Linear) and keep(name),
    )
    return model.eval()


def by_torchao_names(folder: Path, config: str) -> Any:
    """Quantised by a config that names its modules itself."""
    quantization: Any = import_module("torchao.quantization")

    model = loaded(folder)
    inner = quantization.Int8WeightOnlyConfig()
    named = getattr(quantization, config)({"_default": inner})
    quantization.quantize_(model, named, filter_fn=None)
    return model.eval()


def torchao(outcome: str, config: str, **options: Any) -> Quantisation:
    refused = None if outcome == "explained" else NO_BACKWARD
    make = partial(by_torchao, config=config, **options)
    return Quantisation(outcome, "torchao", make, refused)


def torchao_names(config: str) -> Quantisation:
    make = partial(by_torchao_names, config=config)
    return Quantisation("explained", "torchao", make)


# By the name in torchao.quantization.
TORCHAO: dict[str, Quantisation] = {
    "AOPerModuleConfig": torchao_names("ModuleFqnToConfig"),
    "Float8DynamicActivationFloat8WeightConfig": untried("a GPU"),
    "Float8DynamicActivationInt4WeightConfig": untried("mslk, and a GPU"),
    "Float8MMConfig": Quantisation("part of other configs"),
    "Float8StaticActivationFloat8WeightConfig": untried(
        "a calibrated scale, and a GPU"
    ),
    "Float8WeightOnlyConfig": torchao("explained", "Float8WeightOnlyConfig"),
    "FqnToConfig": torchao_names("FqnToConfig"),
    "Int4WeightOnlyConfig": untried("mslk, and a GPU"),
    "Int8DynamicActivationInt8WeightConfig": torchao(
        "refused", "Int8DynamicActivationInt8WeightConfig"
    ),
    "Int8DynamicActivationIntxWeightConfig": torchao(
        "refused", "Int8DynamicActivationIntxWeightConfig"
    ),
    "Int8StaticActivationInt8WeightConfig": untried("a calibrated scale"),
    "Int8WeightOnlyConfig": torchao("explained", "Int8WeightOnlyConfig"),
    "IntxWeightOnlyConfig": torchao("explained", "IntxWeightOnlyConfig"),
    "IntxWeightOnlyConfig, 4 bits": torchao(
        "explained", "IntxWeightOnlyConfig", weight_dtype=getattr(torch, "int4", None)
    ),
    "ModuleFqnToConfig": torchao_names("ModuleFqnToConfig"),
}
