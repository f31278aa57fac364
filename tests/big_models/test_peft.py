"""Adapters of peft: of weights they are explained, of virtual tokens refused."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from captum_dexar.baselines import LayerAttention
from captum_dexar.model import adapters as known
from tests.big_models.adapters import Adapter, ADAPTERS, disturbed, TEXT, VARIANTS
from tests.helpers.literal import assert_literal, TARGET, WAYS
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from tests.helpers.untouched import untouched
from torch import nn

peft: Any = pytest.importorskip("peft", reason="it is what makes the adapters")
METHODS = [kind.name for kind in peft.PeftType]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Adapters begin with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# Every method of the installed version.


def made(adapter: Adapter, folder: Path) -> Any:
    return adapter.make(peft, folder)


def check(adapter: Adapter, folder: Path) -> None:
    model = made(adapter, folder)
    if adapter.refused is not None:
        for engine in ("closed_form", "autograd"):
            for explain in WAYS.values():
                with pytest.raises(RuntimeError, match=adapter.refused):
                    explain(LayerDexAR(model, engine=engine))
        return
    for way in ("given", "generated", "streamed"):
        engine = "closed_form"
        if way == "given" and adapter.given_is_refused is not None:
            with pytest.raises(RuntimeError, match=adapter.given_is_refused):
                WAYS[way](LayerDexAR(model))
            engine = "autograd"
        assert_literal(model, way, engine, **adapter.reference)


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name: str, tmp_path: Path) -> None:
    """Explained as plain autograd explains it, or refused by name."""
    assert name in ADAPTERS, f"{name} is new in peft, and not in the table"
    check(ADAPTERS[name], tmp_path)


@pytest.mark.parametrize("name", sorted(set(ADAPTERS) - set(METHODS)))
def test_methods_of_other_versions(name: str) -> None:
    pytest.skip(f"{name} is not in peft {peft.__version__}")


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name: str, tmp_path: Path) -> None:
    try:
        made(VARIANTS[name], tmp_path)
    except (AttributeError, TypeError) as error:
        # A config, or an option of one, that an older version does not have.
        if not re.search("has no attribute '.*Config'|unexpected keyword", str(error)):
            raise
        pytest.skip(f"not in peft {peft.__version__}: {error}")
    check(VARIANTS[name], tmp_path)


def test_tokens_that_invoke_an_adapter_anew(tmp_path: Path) -> None:
    """In one pass over prompt and answer they would switch it off in the prompt."""
    model = made(VARIANTS["LORA, aLoRA"], tmp_path)
    answer = prompt_inputs(1)["input_ids"][0, -3:-1].tolist() + [40]
    with pytest.raises(RuntimeError, match="activated LoRA.*share its pass"):
        VLMAttribution(LayerDexAR(model)).attribute(prompt_inputs(1), target=answer)


def test_a_method_that_nobody_knows_is_checked_as_a_users_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(known, "_APART", known._APART - {"lora"})
    model = with_adapter(lora())
    assert not LayerDexAR(model).can_be_batched
    for way in WAYS:
        assert_literal(model, way)


def test_a_baseline_whose_positions_share_a_pass_is_refused(tmp_path: Path) -> None:
    model = made(ADAPTERS["LILY"], tmp_path)
    with pytest.raises(RuntimeError, match=r"tuners\.lily.*which positions share"):
        VLMAttribution(LayerAttention(model)).attribute(prompt_inputs(1), TARGET)


# Several adapters, and other ways of having them.


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


WAYS_OF_HAVING_THEM: dict[str, Callable[[], Any]] = {
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
    "two_at_once": with_two,
    "two_kinds": of_two_kinds,
    "injected": lambda: disturbed(
        peft.inject_adapter_in_model(lora(), tiny_vlm(seed=1))
    ),
    "added": added_by_transformers,
}


@pytest.mark.parametrize("kind", WAYS_OF_HAVING_THEM)
def test_adapters_of_weights(kind: str) -> None:
    model = WAYS_OF_HAVING_THEM[kind]()
    for way in ("given", "generated", "streamed"):
        assert_literal(model, way)


def test_a_list_with_an_adapter() -> None:
    model = with_adapter(lora(use_dora=True))
    for way in ("given_list", "generated_list"):
        assert_literal(model, way)


def test_the_adapted_model_is_left_as_it_is() -> None:
    model = with_adapter(lora(use_dora=True))
    WAYS["given"](LayerDexAR(model))
    with untouched(model):
        for explain in WAYS.values():
            explain(LayerDexAR(model))


@pytest.mark.parametrize("name", ["LORA", "LILY", "PROMPT_TUNING", "POLY", "SHADOW"])
def test_an_adapter_that_is_switched_off(name: str, tmp_path: Path) -> None:
    model = made(ADAPTERS[name], tmp_path)
    adapted = next((m for m in model.modules() if isinstance(m, peft.PeftModel)), None)
    if adapted is None:
        for module in model.modules():
            if isinstance(getattr(type(module), "disable_adapters", None), property):
                module.enable_adapters(False)
        assert_as_without(model)
        return
    with adapted.disable_adapter():
        assert_as_without(model)


def assert_as_without(model: nn.Module) -> None:
    for way, explain in WAYS.items():
        got = explain(LayerDexAR(model))
        plain = WAYS[way](LayerDexAR(tiny_vlm(seed=1)))
        for (answer, attr, _), (expected, other, _) in zip(got, plain):
            assert answer == expected
            torch.testing.assert_close(attr, other, rtol=1e-5, atol=1e-6)
