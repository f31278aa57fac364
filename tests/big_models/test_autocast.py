"""Under autocast, and other contexts of a thread, a stream equals an answer at once."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from tests.helpers.explained import relative_error
from tests.helpers.literal import FEW, literal, WAYS
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from torch import Tensor
from torch.overrides import TorchFunctionMode

HALF = torch.bfloat16


def parts(model: Any, name: str) -> Any:
    """Some parts of a model in half precision, the others in float32."""
    text = model.model.language_model
    chosen = {
        "none": [],
        "vision": [model.model.vision_tower],
        "mlp": [layer.mlp for layer in text.layers],
        "head": [model.lm_head],
        "all_but_norm": [model],
    }
    for module in chosen[name]:
        module.to(HALF)
    text.norm.float()
    return model


@pytest.mark.parametrize(
    ("name", "half"),
    [(name, HALF) for name in ("none", "vision", "mlp", "head", "all_but_norm")]
    + [("none", torch.float16)],
    ids=str,
)
def test_autocast(name: str, half: torch.dtype) -> None:
    """As close to float64 as plain autograd under autocast, within a factor that leaves
    room for rounding elsewhere; the same in every way."""
    model = parts(tiny_vlm(seed=1), name)
    for way, explain in WAYS.items():
        with torch.autocast("cpu", half):
            (answer, attr, log_probs), *_ = explain(LayerDexAR(model))
            plain = literal(model, prompt_inputs(1), answer, in_float64=False)
        exact = literal(model, prompt_inputs(1), answer)
        rounding = relative_error(plain.token_attr, exact.token_attr)
        assert relative_error(attr, exact.token_attr) <= 4 * rounding, way
        torch.testing.assert_close(
            log_probs.double(), plain.token_log_probs, rtol=0, atol=0.1
        )


@pytest.mark.parametrize("name", ["none", "mlp", "all_but_norm"])
def test_a_stream_under_autocast_equals_an_answer_at_once(name: str) -> None:
    dexar = VLMAttribution(LayerDexAR(parts(tiny_vlm(seed=1), name)))
    with torch.autocast("cpu", HALF):
        whole = dexar.attribute(prompt_inputs(1), gen_args=FEW)
        steps = list(dexar.stream(prompt_inputs(1), FEW))
    assert [step.target_ids.tolist() for step in steps] == [
        [token] for token in whole.target_ids.tolist()
    ]
    log_probs = torch.cat([step.token_log_probs for step in steps])
    torch.testing.assert_close(log_probs, whole.token_log_probs)
    attr = torch.cat([step.token_attr for step in steps])
    assert relative_error(attr, whole.token_attr) <= torch.finfo(HALF).eps * 4


class Scaled(TorchFunctionMode):
    """Doubles what every softmax of this thread puts out."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        return output * 2 if func is torch.nn.functional.silu else output


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "mode": Scaled,
    "device": lambda: torch.device("cpu"),
    "autocast": lambda: torch.autocast("cpu", torch.float16, cache_enabled=False),
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_stream_runs_in_the_callers_context(name: str) -> None:
    dexar = VLMAttribution(LayerDexAR(tiny_vlm(seed=1)))
    with CONTEXTS[name]():
        whole = dexar.attribute(prompt_inputs(1), gen_args=FEW)
        steps = list(dexar.stream(prompt_inputs(1), FEW))
    log_probs: Tensor = torch.cat([step.token_log_probs for step in steps])
    torch.testing.assert_close(log_probs, whole.token_log_probs)
