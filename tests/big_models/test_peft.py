"""Adapters of peft: of weights they are explained, of virtual tokens refused."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR
from tests.helpers.literal import assert_literal, WAYS
from tests.helpers.tiny_models import tiny_vlm
from torch import nn

peft: Any = pytest.importorskip("peft", reason="it is what makes the adapters")
pytestmark = pytest.mark.filterwarnings("ignore:The map of the whole answer is zero")

TEXT = r".*language_model.*\.(q_proj|v_proj|o_proj|down_proj|gate_proj)"


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Adapters begin with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def disturbed(model: Any) -> nn.Module:
    """Adapters change nothing at first; their weights are moved."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += 0.15 * (parameter.abs().mean() + 0.5) * noise
    adapted: nn.Module = model.eval()
    return adapted


def lora(**options: Any) -> Any:
    return peft.LoraConfig(**{"r": 3, "target_modules": TEXT, **options})


def with_adapter(config: Any) -> Any:
    return disturbed(peft.get_peft_model(tiny_vlm(seed=1), config))


def with_two() -> nn.Module:
    model = peft.get_peft_model(tiny_vlm(seed=1), lora())
    model.add_adapter("other", lora(r=2, target_modules=["o_proj", "up_proj"]))
    disturbed(model)
    model.base_model.set_adapter(["default", "other"])
    adapted: nn.Module = model.eval()
    return adapted


def of_two_kinds() -> nn.Module:
    model = peft.get_peft_model(tiny_vlm(seed=1), lora(), mixed=True)
    model.add_adapter("other", peft.LoHaConfig(r=2, target_modules=["up_proj"]))
    model.set_adapter(["default", "other"])
    return disturbed(model)


def merged(config: Any) -> nn.Module:
    model = with_adapter(config)
    model.merge_adapter()
    adapted: nn.Module = model
    return adapted


def added_by_transformers() -> nn.Module:
    model: Any = tiny_vlm(seed=1)
    model.add_adapter(lora())
    return disturbed(model)


ADAPTERS: dict[str, Callable[[], Any]] = {
    "lora": lambda: with_adapter(lora(task_type="CAUSAL_LM")),
    "rslora": lambda: with_adapter(lora(use_rslora=True)),
    "dora": lambda: with_adapter(lora(use_dora=True)),
    "dora_merged": lambda: merged(lora(use_dora=True)),
    "head_replaced": lambda: with_adapter(
        lora(modules_to_save=["lm_head", "embed_tokens"])
    ),
    "head_adapted": lambda: with_adapter(lora(target_modules=["o_proj", "lm_head"])),
    "norms_replaced": lambda: with_adapter(
        lora(
            target_modules=["q_proj"],
            modules_to_save=["norm", "post_attention_layernorm"],
        )
    ),
    "parameters": lambda: with_adapter(
        lora(
            target_modules=None,
            target_parameters=["o_proj.weight", "down_proj.weight"],
        )
    ),
    "trainable_tokens": lambda: with_adapter(
        lora(target_modules=["q_proj"], trainable_token_indices=[5, 6, 40, 41])
    ),
    "ia3": lambda: with_adapter(
        peft.IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
        )
    ),
    "adalora": lambda: with_adapter(
        peft.AdaLoraConfig(target_modules=TEXT, init_r=4, target_r=2, total_step=10)
    ),
    "oft": lambda: with_adapter(
        peft.OFTConfig(target_modules=TEXT, r=0, oft_block_size=4)
    ),
    "boft": lambda: with_adapter(
        peft.BOFTConfig(target_modules=TEXT, boft_block_size=4)
    ),
    "vera": lambda: with_adapter(
        peft.VeraConfig(target_modules=r".*language_model.*\.(q_proj|o_proj)", r=4)
    ),
    "loha": lambda: with_adapter(peft.LoHaConfig(target_modules=TEXT, r=3)),
    "lokr": lambda: with_adapter(peft.LoKrConfig(target_modules=TEXT, r=3)),
    "norms": lambda: with_adapter(
        peft.LNTuningConfig(target_modules=r".*language_model.*norm")
    ),
    "two_at_once": with_two,
    "two_kinds": of_two_kinds,
    "injected": lambda: disturbed(
        peft.inject_adapter_in_model(lora(), tiny_vlm(seed=1))
    ),
    "added": added_by_transformers,
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_of_weights(kind: str) -> None:
    model = ADAPTERS[kind]()
    for way in ("given", "generated", "streamed"):
        assert_literal(model, way)


def test_a_list_with_an_adapter() -> None:
    model = with_adapter(lora(use_dora=True))
    for way in ("given_list", "generated_list"):
        assert_literal(model, way)


# Virtual tokens before the prompt.

TOKENS = {
    "task_type": "CAUSAL_LM",
    "num_virtual_tokens": 4,
    "num_layers": 3,
    "token_dim": 48,
    "num_attention_heads": 4,
    "num_transformer_submodules": 1,
}
VIRTUAL: dict[str, Callable[[], Any]] = {
    "PromptTuningConfig": lambda: peft.PromptTuningConfig(**TOKENS),
    "PromptEncoderConfig": lambda: peft.PromptEncoderConfig(
        **TOKENS, encoder_hidden_size=16
    ),
    "PrefixTuningConfig": lambda: peft.PrefixTuningConfig(**TOKENS),
    "MultitaskPromptTuningConfig": lambda: peft.MultitaskPromptTuningConfig(
        **TOKENS, num_tasks=1
    ),
}


@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_tokens_are_refused(kind: str) -> None:
    model = with_adapter(VIRTUAL[kind]())
    for engine in ("closed_form", "autograd"):
        for way in WAYS.values():
            with pytest.raises(RuntimeError, match=rf"{kind}\) puts 4 virtual tokens"):
                way(LayerDexAR(model, engine=engine))


@pytest.mark.parametrize("config", [lora(), VIRTUAL["PromptTuningConfig"]()], ids=type)
def test_an_adapter_that_is_switched_off(config: Any) -> None:
    model = with_adapter(config)
    with model.disable_adapter():
        for way, explain in WAYS.items():
            got = explain(LayerDexAR(model))
            plain = WAYS[way](LayerDexAR(tiny_vlm(seed=1)))
            for (answer, attr, _), (expected, other, _) in zip(got, plain):
                assert answer == expected
                torch.testing.assert_close(attr, other, rtol=1e-5, atol=1e-6)
