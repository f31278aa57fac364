"""Every method of Captum explains an answer or says why not, as in the README's table.

The table is generated; each of its methods is tried on the bundled model.
"""

import re
from inspect import isabstract, isclass, signature
from pathlib import Path
from typing import Any

import captum.attr
import captum.concept
import captum.influence
import pytest
import torch
from captum.attr import (
    Attribution,
    FeatureAblation,
    LayerActivation,
    LayerGradCam,
    LayerIntegratedGradients,
    NoiseTunnel,
    Saliency,
    ShapleyValues,
)
from captum_dexar import ImagePromptInput, VLMAttribution, VLMForward
from captum_dexar.captum_methods.arguments import arguments_table
from captum_dexar.captum_methods.supported import (
    EXPLAINED,
    methods_table,
    REFUSED,
    REFUSED_ELSEWHERE,
)
from captum_dexar.shapes import load_vlm, make_scene

README = Path(__file__).parents[2] / "captum_dexar/captum_methods/README.md"
TARGET = "a red"
# Methods whose condition the bundled model does not meet, and the reason they give.
NEED_ACTIVATIONS = ("DeepLift", "DeepLiftShap", "Deconvolution", "GuidedBackprop")
ARGUMENTS: dict[str, dict[str, Any]] = {
    "GradientShap": {"baselines": torch.zeros(2, 3, 96, 96), "n_samples": 2},
    "DeepLiftShap": {"baselines": torch.zeros(2, 3, 96, 96)},
    "IntegratedGradients": {"n_steps": 3},
    "LayerIntegratedGradients": {"n_steps": 3},
    "KernelShap": {"patches": (2, 2), "n_samples": 6},
    "Lime": {"patches": (2, 2), "n_samples": 6},
    "NoiseTunnel": {"nt_samples": 2, "stdevs": 0.1},
    "Occlusion": {"patches": (4, 4)},
    "FeatureAblation": {"patches": (2, 2)},
    "ShapleyValues": {"patches": (2, 2)},
    "ShapleyValueSampling": {"patches": (2, 2), "n_samples": 2},
}


def block(name: str) -> str:
    pattern = rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->"
    (found,) = re.findall(pattern, README.read_text(), re.DOTALL)
    return found


def test_the_readme_has_the_tables() -> None:
    assert block("methods") == methods_table()
    assert block("arguments") == arguments_table()


def methods_of(module: Any) -> set[str]:
    """The classes of a module of Captum's that explain something."""
    public = {name: getattr(module, name) for name in module.__all__}
    return {
        name
        for name, value in public.items()
        if isclass(value)
        and (issubclass(value, Attribution) or name.endswith("Attribution"))
    }


def test_the_table_has_every_method_of_captum() -> None:
    assert EXPLAINED.keys() | REFUSED.keys() == methods_of(captum.attr)
    assert not EXPLAINED.keys() & REFUSED.keys()
    elsewhere = {
        name
        for module in (captum.influence, captum.concept)
        for name in module.__all__
        if name.startswith(("TracIn", "TCAV"))
        or name.endswith(("Influence", "InfluenceFunction", "Interpreter"))
    }
    assert REFUSED_ELSEWHERE.keys() == elsewhere


@pytest.fixture(scope="module")
def bundled() -> tuple[Any, Any, ImagePromptInput]:
    model, processor = load_vlm()
    image = make_scene(0).image
    inp = ImagePromptInput(image, "Describe the image.", processor, model)
    return model, processor, inp


def made(name: str, model: Any, processor: Any) -> Any:
    """A method as its constructor asks for."""
    forward, projector = VLMForward(model), model.model.multi_modal_projector
    method: Any = getattr(captum.attr, name)
    values = {
        "forward_func": forward,
        "model": forward,
        "layer": projector,
        "attribution_method": Saliency(forward),
        "interpretable_model": torch.nn.Linear(1, 1),
        "attr_method": FeatureAblation(model),
        "tokenizer": processor.tokenizer,
        "perturb_interpretable_space": True,
    }
    if name == "LLMGradientAttribution":
        embeddings = model.get_input_embeddings()
        values["attr_method"] = LayerIntegratedGradients(model, embeddings)
    if isabstract(method):
        method = type(name, (method,), {"__abstractmethods__": frozenset()})
    required = [
        parameter.name
        for parameter in signature(method.__init__).parameters.values()
        if parameter.default is parameter.empty
        and parameter.name != "self"
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return method(**{name: values.get(name, lambda *unused: None) for name in required})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(EXPLAINED))
def test_it_explains_an_answer(name: str, bundled: Any) -> None:
    model, processor, inp = bundled
    if name in ("KernelShap", "Lime"):
        pytest.importorskip("sklearn.linear_model", reason="Captum fits with it")
    method = VLMAttribution(made(name, model, processor), processor)
    arguments = ARGUMENTS.get(name, {})
    if name in NEED_ACTIVATIONS:
        with pytest.raises(NotImplementedError, match=f"{name} can't .* has none"):
            method.attribute(inp, TARGET, **arguments)
        return
    result = method.attribute(inp, TARGET, **arguments)
    assert result.token_attr.shape == (2, 144)
    assert result.token_attr.isfinite().all() and result.token_attr.any()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_it_is_refused_by_name(name: str, bundled: Any) -> None:
    model, processor, _ = bundled
    if name == "RemoteLLMAttribution":  # needs a server
        method = object.__new__(captum.attr.RemoteLLMAttribution)
    else:
        method = made(name, model, processor)
    with pytest.raises(TypeError, match=f"^{name} can't explain an answer: ") as error:
        VLMAttribution(method, processor)
    assert REFUSED[name] in str(error.value)


@pytest.mark.parametrize("name", sorted(REFUSED_ELSEWHERE))
def test_methods_elsewhere_are_refused_by_name(name: str) -> None:
    module: Any = captum.concept if hasattr(captum.concept, name) else captum.influence
    cls: Any = getattr(module, name)
    # They need data sets and checkpoints; their class is enough to refuse them.
    derived: Any = type(name, (cls,), {})
    derived.__abstractmethods__ = frozenset()
    method = object.__new__(derived)
    with pytest.raises(TypeError, match=f"^{name} can't explain an answer: "):
        VLMAttribution(method)


def test_noise_around_another_kind_of_method_is_refused(bundled: Any) -> None:
    model, processor, _ = bundled
    forward, projector = VLMForward(model), model.model.multi_modal_projector
    for inside in (
        FeatureAblation(forward),
        LayerGradCam(forward, projector),
        NoiseTunnel(Saliency(forward)),
    ):
        name = type(inside).__name__
        with pytest.raises(TypeError, match=f"NoiseTunnel can't be .* around {name}"):
            VLMAttribution(NoiseTunnel(inside), processor)
    guided = NoiseTunnel(made("GuidedGradCam", model, processor))
    with pytest.raises(TypeError, match="GuidedGradCam can't explain an answer"):
        VLMAttribution(guided, processor)


def test_a_subclass_runs_like_its_base(bundled: Any) -> None:
    model, processor, inp = bundled

    class Doubled(Saliency):
        def attribute(self, inputs: Any, **arguments: Any) -> Any:
            return 2 * super().attribute(inputs, **arguments)

    class Gradient(captum.attr.GradientAttribution):
        def attribute(self, inputs: Any) -> Any:
            return self.gradient_func(self.forward_func, (inputs,))[0]

    class Refused(captum.attr.LRP):
        pass

    def explained(method: Any, **arguments: Any) -> Any:
        wrapped = VLMAttribution(method(VLMForward(model)), processor)
        return wrapped.attribute(inp, TARGET, **arguments).token_attr

    assert torch.equal(explained(Doubled), 2 * explained(Saliency))
    assert torch.equal(explained(Gradient), explained(Saliency, abs=False))
    with pytest.raises(TypeError, match="LRP can't explain an answer"):
        VLMAttribution(Refused(VLMForward(model)), processor)


def test_something_else_is_no_method() -> None:
    for method in (7, Saliency, torch.nn.Linear(1, 1)):
        with pytest.raises(TypeError, match="attr_method must be LayerDexAR"):
            VLMAttribution(method)


def test_activations_have_no_contrast(bundled: Any) -> None:
    model, processor, inp = bundled
    layer = model.model.multi_modal_projector
    method = VLMAttribution(LayerActivation(VLMForward(model), layer), processor)
    with pytest.raises(TypeError, match="nothing to contrast"):
        method.attribute(inp, TARGET, contrast="a green")


def test_every_order_of_many_parts_is_refused(bundled: Any) -> None:
    model, processor, inp = bundled
    method = VLMAttribution(ShapleyValues(VLMForward(model)), processor)
    with pytest.raises(ValueError, match="144! orders. Use ShapleyValueSampling"):
        method.attribute(inp, TARGET)
