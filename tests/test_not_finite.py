"""No result holds NaN or infinity: there is an error that says where they come from."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.comparison import METHODS, named_methods
from captum_dexar.shapes import load_vlm, make_scene
from PIL import Image
from tests.helpers.tiny_models import IMAGE_TOKEN, prompt_inputs, roughen, tiny_vlm
from torch import nn, Tensor
from transformers import LlavaForConditionalGeneration

FIELDS = ("token_attr", "seq_attr", "token_weights", "token_log_probs", "head_weights")
FEW = {"max_new_tokens": 2, "do_sample": False}


def of(name: str, model: nn.Module) -> tuple[VLMAttribution, dict[str, Any]]:
    ((method, arguments),) = named_methods([name], model).values()
    more = {"n_steps": 2} if name == "ig" else {}
    return VLMAttribution(method), {**arguments, **more}


def is_finite(result: Any) -> bool:
    values = [getattr(result, name) for name in FIELDS]
    return all(bool(one.isfinite().all()) for one in values if one is not None)


def with_nan(name: str) -> nn.Module:
    model = tiny_vlm()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0] = torch.nan
    return model


# Shapley values need the original picture.
@pytest.mark.parametrize("name", [name for name in METHODS if name != "shapley"])
def test_a_weight_that_is_nan(name: str) -> None:
    weight = "model.language_model.layers.1.mlp.down_proj.weight"
    method, arguments = of(name, with_nan(weight))
    with pytest.raises(RuntimeError, match=f"not finite numbers.*{weight} holds NaN"):
        method.attribute(prompt_inputs(), [40, 41], **arguments)


DEGENERATE = (
    "a constant image",
    "no text",
    "one image token",
    "one layer",
    "zero gradients",
)


def of_one_image_token() -> nn.Module:
    """A model whose images are a single patch."""
    config: Any = copy.deepcopy(tiny_vlm().config)
    config.vision_config.image_size = config.vision_config.patch_size
    config.image_seq_length = 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
        roughen(model)
    model.eval()
    return model


WAYS: dict[str, Callable[[VLMAttribution], object]] = {
    "generated": lambda dexar: dexar.attribute(prompt_inputs(), gen_args=FEW),
    "given": lambda dexar: dexar.attribute(prompt_inputs(), [40, 41]),
    "streamed": lambda dexar: list(dexar.stream(prompt_inputs(), gen_args=FEW)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
@pytest.mark.parametrize("engine", ["closed_form", "autograd"])
def test_what_only_the_image_makes_nan(
    engine: str, way: Callable[[VLMAttribution], object]
) -> None:
    """The check of the model, which reads a few words, sees nothing of it."""
    model = with_nan("model.vision_tower.embeddings.class_embedding")
    with pytest.raises(RuntimeError, match="not finite numbers.*weight or a pixel"):
        way(VLMAttribution(LayerDexAR(model, engine=engine)))


@pytest.mark.parametrize("name", ["dexar", "attention", "saliency", "occlusion"])
def test_logits_that_overflow_in_half_precision(name: str) -> None:
    model: Any = tiny_vlm().half()
    with torch.no_grad():
        model.lm_head.weight.copy_(3e4 * model.lm_head.weight.sign())
    method, arguments = of(name, model)
    inputs = prompt_inputs()
    inputs["pixel_values"] = inputs["pixel_values"].half()
    with pytest.raises(RuntimeError, match="not finite.*float16.*bfloat16 or float32"):
        method.attribute(inputs, [40, 41], **arguments)


def test_gradients_that_overflow() -> None:
    """Where the logits do not: products of gradients do."""
    model: Any = tiny_vlm()
    with torch.no_grad():
        model.lm_head.weight.mul_(1e35)
    dexar = LayerDexAR(model)
    with pytest.raises(RuntimeError, match="The maps of Layer DEX-AR are not finite"):
        VLMAttribution(dexar).attribute(prompt_inputs(), [40, 41])
    inputs = prompt_inputs()
    with pytest.raises(RuntimeError, match="The maps of Layer DEX-AR are not finite"):
        dexar.attribute(
            inputs["pixel_values"],
            target=40,
            additional_forward_args=(inputs["input_ids"], {}),
            head_filter=True,
        )


@pytest.mark.parametrize("name", [name for name in METHODS if name != "shapley"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_models_and_images(case: str, name: str) -> None:
    model: Any = tiny_vlm(num_layers=1 if case == "one layer" else 3)
    inputs = prompt_inputs()
    if case == "one image token":
        model = of_one_image_token()
        inputs = {
            "input_ids": torch.tensor([[5, 6, IMAGE_TOKEN, 7, 8]]),
            "pixel_values": inputs["pixel_values"][..., :8, :8],
        }
    elif case == "no text":
        inputs = prompt_inputs(before=0, after=0)
    elif case == "zero gradients":
        with torch.no_grad():
            model.lm_head.weight.zero_()
    elif case == "a constant image":
        inputs["pixel_values"] = torch.full_like(inputs["pixel_values"], 0.5)
    method, arguments = of(name, model)
    result = method.attribute(inputs, [40, 41], **arguments)
    assert is_finite(result)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "shapley"])
def test_the_same_bits_again(name: str) -> None:
    made: list[Tensor] = []
    for _ in range(2):
        method, arguments = of(name, tiny_vlm())
        torch.manual_seed(0)
        np.random.seed(0)  # Captum's GradientShap draws with NumPy
        result = method.attribute(prompt_inputs(), [40, 41], **arguments)
        made += [result.token_attr, result.seq_attr, result.token_log_probs]
    first, again = made[:3], made[3:]
    assert all(map(torch.equal, first, again))


@pytest.mark.parametrize("colour", ["black", "white"])
def test_pictures_of_one_colour(colour: str) -> None:
    model, processor = load_vlm()
    image = Image.new("RGB", make_scene(0).image.size, colour)
    inp = ImagePromptInput(image, "Describe the image.", processor)
    dexar = VLMAttribution(LayerDexAR(model), processor)
    assert is_finite(dexar.attribute(inp, gen_args=FEW))
    assert all(map(is_finite, dexar.stream(inp, gen_args=FEW)))
