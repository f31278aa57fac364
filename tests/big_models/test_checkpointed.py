"""Gradient checkpointing is for training: in eval mode it changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from tests.helpers.literal import WAYS
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from tests.helpers.untouched import untouched, warm


def checkpointed(**options: Any) -> Callable[[], Any]:
    def make() -> Any:
        model: Any = tiny_vlm(seed=1)
        model.gradient_checkpointing_enable(**options)
        return model

    return make


def for_adapters() -> Any:
    """As one trains adapters: a hook lets the embeddings require gradients."""
    model = checkpointed()()
    model.enable_input_require_grads()
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "default": checkpointed(),
    "reentrant": checkpointed(gradient_checkpointing_kwargs={"use_reentrant": True}),
    "not_reentrant": checkpointed(
        gradient_checkpointing_kwargs={"use_reentrant": False}
    ),
    "inputs_require_grads": for_adapters,
}


@pytest.mark.parametrize("name", MODELS)
def test_in_eval_mode_it_changes_nothing(name: str) -> None:
    model, plain = warm(MODELS[name](), prompt_inputs(1)), tiny_vlm(seed=1)
    for engine in ("closed_form", "autograd"):
        for explain in WAYS.values():
            with untouched(model):
                got = explain(LayerDexAR(model, engine=engine))
            for one, other in zip(got, explain(LayerDexAR(plain, engine=engine))):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_checkpointed_model_in_training_mode_is_refused() -> None:
    model = MODELS["default"]().train()
    with pytest.raises(RuntimeError, match="training mode"):
        VLMAttribution(LayerDexAR(model)).attribute(prompt_inputs(1), target=[40])
