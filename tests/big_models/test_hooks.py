"""Hooks, patches and computed weights of a user's: explained as the model runs them."""

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from tests.helpers.explained import relative_error
from tests.helpers.literal import assert_literal, WAYS
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from tests.helpers.untouched import untouched, warm
from torch import nn, Tensor
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, parametrize, prune

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*weight_norm.* is deprecated:FutureWarning",
)
TARGET = [40, 41, 42]
HIDDEN = 48
STEERING = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(5))


def layer(model: Any, index: int = 1) -> Any:
    return model.model.language_model.layers[index]


PLACES: dict[str, Callable[[Any], Any]] = {
    "layer": layer,
    "last_layer": lambda model: layer(model, 2),
    "attention": lambda model: layer(model).self_attn,
    "o_proj": lambda model: layer(model).self_attn.o_proj,
    "v_proj": lambda model: layer(model).self_attn.v_proj,
    "input_norm": lambda model: layer(model).input_layernorm,
    "mlp": lambda model: layer(model).mlp,
    "down_proj": lambda model: layer(model).mlp.down_proj,
    "final_norm": lambda model: model.model.language_model.norm,
    "head": lambda model: model.lm_head,
    "embedding": lambda model: model.model.language_model.embed_tokens,
}


def changed(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A module's output with its first tensor changed."""
    if isinstance(output, tuple):
        return (change(output[0]), *output[1:])
    return change(output)


def steered(module: Any, args: Any, output: Any) -> Any:
    """Adds a vector and scales, which moves what every later module reads."""

    def change(hidden: Tensor) -> Tensor:
        size = hidden.shape[-1]
        scale = torch.linspace(0.5, 1.5, size)
        return hidden * scale + STEERING.repeat(3)[:size]

    return changed(output, change)


def fed_something_else(module: Any, args: Any, kwargs: Any) -> Any:
    name = "hidden_states" if "hidden_states" in kwargs else None
    given = args[0] if name is None else kwargs[name]
    if not given.is_floating_point():
        return (given.clamp(min=3),), kwargs
    moved = given + 0.5 * STEERING.repeat(3)[: given.shape[-1]]
    if name is None:
        return (moved, *args[1:]), kwargs
    return args, {**kwargs, name: moved}


def at_position_5(module: Any, args: Any, output: Any) -> Any:
    def change(hidden: Tensor) -> Tensor:
        hidden = hidden.clone()
        if hidden.shape[1] > 5:
            hidden[:, 5] = hidden[:, 5] * 3
        return hidden

    return changed(output, change)


def at_the_last_position(module: Any, args: Any, output: Any) -> Any:
    def change(hidden: Tensor) -> Tensor:
        hidden = hidden.clone()
        hidden[:, -1] += STEERING.repeat(3)[: hidden.shape[-1]]
        return hidden

    return changed(output, change)


def hooked(place: str, hook: Callable[..., Any]) -> nn.Module:
    model = tiny_vlm(seed=1)
    module = PLACES[place](model)
    if hook is fed_something_else:
        module.register_forward_pre_hook(hook, with_kwargs=True)
    else:
        module.register_forward_hook(hook)
    return model


@pytest.mark.parametrize("place", PLACES)
def test_steering(place: str) -> None:
    model = hooked(place, steered)
    for way in ("given", "generated", "streamed"):
        assert_literal(model, way)


@pytest.mark.parametrize("hook", [fed_something_else, at_position_5])
@pytest.mark.parametrize("place", ["layer", "o_proj", "mlp", "final_norm"])
def test_other_hooks(place: str, hook: Callable[..., Any]) -> None:
    model = hooked(place, hook)
    for way in ("given_list", "generated_list"):
        assert_literal(model, way)


# What depends on which positions share a pass.


@pytest.mark.parametrize("place", ["layer", "input_norm", "final_norm", "embedding"])
def test_a_hook_that_does_not_keep_positions_apart(place: str) -> None:
    """What was generated is explained from the passes that generated it. A given answer
    has no such passes: it is refused where all steps would share one."""
    model = hooked(place, at_the_last_position)
    for way in ("generated", "streamed"):
        assert_literal(model, way)
    for way in ("given", "given_list"):
        with pytest.raises(RuntimeError, match="a forward hook on|does not reproduce"):
            WAYS[way](LayerDexAR(model))
    assert_literal(model, "given", engine="autograd")


def test_a_hook_of_the_first_pass_only() -> None:
    """It sees that a prompt is run, and keeps away from later tokens."""

    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        return output * 1.5 if output.shape[1] > 1 else output

    model = tiny_vlm(seed=1)
    layer(model).register_forward_hook(hook)
    for way in ("given", "generated", "streamed"):
        assert_literal(model, way, on_cache=way != "given")


def test_an_output_that_is_overwritten_later_is_refused() -> None:
    """Each step's graphs are read when its token is known: too late for this one."""

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        (args[0] if args else kwargs["hidden_states"]).add_(1.0)

    model = tiny_vlm(seed=1)
    layer(model).register_forward_pre_hook(hook, with_kwargs=True)
    for way in ("generated", "streamed"):
        with pytest.raises(RuntimeError, match="layer 0 was written into"):
            WAYS[way](LayerDexAR(model))


def test_an_output_without_graph_is_refused() -> None:
    model = tiny_vlm(seed=1)
    layer(model).register_forward_hook(lambda module, args, output: output.detach())
    for way in WAYS:
        with pytest.raises(RuntimeError, match="layer 1 does not depend .* any graph"):
            WAYS[way](LayerDexAR(model))


def test_hooks_are_left_as_they_are() -> None:
    model = hooked("layer", steered)
    with untouched(warm(model, prompt_inputs())):
        for way in WAYS.values():
            way(LayerDexAR(model))


# Hooks of all modules, and of backward passes.


@contextmanager
def for_all_modules(kind: str) -> Iterator[None]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if type(module).__name__ != kind:
            return None
        return changed(output, lambda hidden: hidden * 1.1 + 0.2)

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", ["LlamaDecoderLayer", "LlamaMLP", "Linear"])
def test_hooks_of_all_modules(kind: str) -> None:
    with for_all_modules(kind):
        model = tiny_vlm(seed=1)
        for way in ("given", "generated", "streamed"):
            assert_literal(model, way)


@pytest.mark.parametrize("place", ["layer", "mlp", "o_proj"])
def test_hooks_of_backward_passes(place: str) -> None:
    model = tiny_vlm(seed=1)
    PLACES[place](model).register_full_backward_pre_hook(
        lambda module, gradients: tuple(2 * gradient for gradient in gradients)
    )
    PLACES[place](model).register_full_backward_hook(
        lambda module, inputs, outputs: tuple(
            None if gradient is None else 3 * gradient for gradient in inputs
        )
    )
    for way in ("given", "generated", "streamed"):
        assert_literal(model, way)


# Other methods, modules of their own.


def patched(place: str) -> nn.Module:
    model = tiny_vlm(seed=1)
    module = PLACES[place](model)
    original = type(module).forward

    @functools.wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return steered(self, args, original(self, *args, **kwargs))

    module.forward = types.MethodType(forward, module)
    return model


@pytest.mark.parametrize(
    "place", ["layer", "attention", "o_proj", "final_norm", "head"]
)
def test_replaced_methods(place: str) -> None:
    model = patched(place)
    for way in ("given", "generated", "streamed"):
        assert_literal(model, way)


@pytest.mark.parametrize("place", ["layer", "attention"])
def test_methods_that_are_replaced_in_the_class(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_vlm(seed=1)
    kind = type(PLACES[place](model))
    original = kind.forward

    @functools.wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return steered(self, args, original(self, *args, **kwargs))

    # Its module, which wraps() copies, is what a name can't be trusted for.
    forward.__module__ = __name__
    monkeypatch.setattr(kind, "forward", forward)
    for way in ("given", "generated", "streamed"):
        assert_literal(model, way)


class Controlled(nn.Module):
    """A decoder layer in a module that steers its output."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return steered(self, args, self.block(*args, **kwargs))


def test_layers_in_modules_of_the_user() -> None:
    model = tiny_vlm(seed=1)
    layers: Any = model.get_submodule("model.language_model.layers")
    layers[1] = Controlled(layers[1]).eval()
    for way in ("given", "generated", "streamed"):
        assert_literal(model, way)


class Bounded(nn.Linear):
    """A subclass that does more than a product."""

    def forward(self, input: Tensor) -> Tensor:
        return 3 * super().forward(input).tanh()


def test_subclasses_of_linear_layers() -> None:
    model = tiny_vlm(seed=1)
    for place in ("o_proj", "v_proj", "down_proj", "head"):
        PLACES[place](model).__class__ = Bounded
    for way in ("given", "generated", "streamed"):
        assert_literal(model, way)


def with_changed_logits(change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A model whose own forward does something to its logits."""
    model: Any = tiny_vlm(seed=1)
    original = type(model).forward

    @functools.wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        output.logits = change(output.logits)
        return output

    model.forward = types.MethodType(forward, model)
    return model


def test_a_patch_that_scales_the_logits_is_found() -> None:
    scaled, plain = with_changed_logits(lambda logits: logits * 1.2), tiny_vlm(seed=1)
    for way in WAYS.values():
        for of_scaled, of_plain in zip(way(LayerDexAR(scaled)), way(LayerDexAR(plain))):
            assert of_scaled[0] == of_plain[0]
            # A reading's gradient, and the weight that it is multiplied by.
            assert relative_error(of_scaled[1], 1.2**2 * of_plain[1]) < 1e-5


@pytest.mark.parametrize("change", [torch.sinh, lambda logits: logits - logits.mean()])
def test_other_patches_of_the_whole_model_are_refused(
    change: Callable[[Tensor], Tensor],
) -> None:
    model = with_changed_logits(change)
    for way in WAYS.values():
        with pytest.raises(RuntimeError, match="does not reproduce"):
            way(LayerDexAR(model))


# Weights that are computed.


class Scaled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 1.3 + 0.01


COMPUTED: dict[str, Callable[[Any], Any]] = {
    "pruned": lambda module: prune.l1_unstructured(module, "weight", 0.4),
    "parametrized": lambda module: parametrize.register_parametrization(
        module, "weight", Scaled()
    ),
    "weight_norm": nn.utils.weight_norm,
    "parametrized_weight_norm": parametrizations.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "parametrized_spectral_norm": parametrizations.spectral_norm,
}


@pytest.mark.parametrize("kind", COMPUTED)
def test_weights_that_are_computed(kind: str) -> None:
    model = tiny_vlm(seed=1)
    # A weight with a graph could not be copied.
    with torch.no_grad():
        for place in ("o_proj", "v_proj", "down_proj", "head"):
            COMPUTED[kind](PLACES[place](model))
    model.eval()
    for way in ("given", "generated", "streamed"):
        assert_literal(model, way)


# Models that are wrapped for training.


class DistributedDataParallel(nn.Module):
    """As in torch.nn.parallel, but without processes."""

    __module__ = "torch.nn.parallel.distributed"

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


@pytest.mark.parametrize("wrapper", [nn.DataParallel, DistributedDataParallel])
def test_a_model_wrapped_for_several_devices_is_refused(
    wrapper: Callable[[nn.Module], nn.Module],
) -> None:
    model = wrapper(tiny_vlm()).eval()
    with pytest.raises(TypeError, match=r"DataParallel.*model\.module"):
        LayerDexAR(model)


def test_a_list_with_hooks_equals_single_results() -> None:
    """A hook that looks at the whole batch: inputs are not put into one."""

    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        return output + output.shape[0] * STEERING

    model = tiny_vlm(seed=1)
    layer(model).register_forward_hook(hook)
    dexar = VLMAttribution(LayerDexAR(model))
    inputs = [prompt_inputs(1), prompt_inputs(2)]
    together = dexar.attribute(inputs, target=[TARGET, TARGET])
    for one, result in zip(inputs, together):
        alone = dexar.attribute(one, target=TARGET)
        torch.testing.assert_close(result.token_attr, alone.token_attr)
