"""Models whose image tokens have no place are refused, with the reason."""

import re
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
import transformers
from captum_dexar import ImagePromptInput
from captum_dexar.families import (
    adapter_for_config,
    adapter_for_processor,
    FamilyAdapter,
    ImageTokens,
    known_families,
    PreparedImage,
    register,
    registry,
)
from captum_dexar.families.refused import Refusal, REFUSALS, refuse_model
from tests.families.cases import queries
from tests.families.cases.queries import NUM_QUERIES
from tests.helpers.blocks import dark_image, silence_vision_attention
from torch import nn, Tensor
from transformers import (
    Blip2Config,
    CONFIG_MAPPING,
    LlamaConfig,
    Mistral3Config,
    Mistral4Config,
    PI0Config,
    PI0Processor,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES


def features_of(model: Any, pixels: Tensor) -> Tensor:
    """Image features as they enter the language model, ``(image tokens, size)``."""
    arguments: dict[str, Any] = {"pixel_values": pixels}
    if model.config.model_type == "kosmos-2":
        with torch.no_grad():
            patches = model.vision_model(pixels)[0]
            normed = model.vision_model.model.post_layernorm(patches)
            tokens: Tensor = model.image_to_text_projection(
                nn.functional.normalize(normed, dim=-1)
            )[0]
        return tokens[0]
    if model.config.model_type == "idefics2":
        arguments["pixel_values"] = pixels[:, None]
    if model.config.model_type == "instructblip":
        arguments["qformer_input_ids"] = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        output = model.get_image_features(**arguments, return_dict=True)
    (made,) = output.pooler_output
    assert isinstance(made, Tensor)
    return made.flatten(0, -2)


def silenced(make: Any, tower: str, output: str = "self_attn.out_proj") -> Any:
    return lambda: silence_vision_attention(make(0, "sdpa"), tower, output)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "idefics2": silenced(queries.idefics2, "vision_model"),
    "aria": silenced(queries.aria, "vision_tower"),
    "blip-2": silenced(queries.blip2, "vision_model", "self_attn.projection"),
    "instructblip": silenced(
        queries.instructblip, "vision_model", "self_attn.projection"
    ),
    "kosmos-2": silenced(queries.kosmos2, "vision_model"),
}


REFUSED_TYPES = [kind for refusal in REFUSALS for kind in refusal.model_types]


def refused_config(model_type: str) -> Any:
    with_encoder = {"text_config": {"model_type": "mt5"}}
    settings: dict[str, dict[str, Any]] = {
        "blip-2": with_encoder,
        "instructblip": with_encoder,
    }
    return CONFIG_MAPPING[model_type](**settings.get(model_type, {}))


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda one: one.model_types[0])
def test_the_reason_is_said_for_the_real_configuration(refusal: Refusal) -> None:
    for model_type in refusal.model_types:
        with pytest.raises(TypeError) as caught:
            adapter_for_config(refused_config(model_type))
        message = str(caught.value)
        assert message.startswith(f"Models of type {model_type!r}{refusal.only} are")
        assert refusal.reason in message and message.endswith(refusal.instead)


def test_some_models_of_a_type_may_be_refused() -> None:
    refuse_model(Blip2Config(text_config={"model_type": "t5"}))
    with pytest.raises(TypeError, match="with an encoder-decoder other than T5"):
        refuse_model(Blip2Config(text_config={"model_type": "mt5"}))


def test_text_models_as_part_of_others_are_not_refused() -> None:
    config = Mistral3Config(text_config=Mistral4Config().to_dict())
    assert config.get_text_config().model_type == "mistral4"
    assert "mistral3" in adapter_for_config(config).model_types


def test_no_processor_of_another_model_is_refused() -> None:
    refused = {name for refusal in REFUSALS for name in refusal.processor_types}
    assert all(hasattr(transformers, name) for name in refused)
    for model_type, name in PROCESSOR_MAPPING_NAMES.items():
        try:
            processor = getattr(transformers, str(name))
        except ModuleNotFoundError:
            continue  # In earlier versions some need torchvision.
        names = {base.__name__ for base in processor.__mro__}
        assert model_type in REFUSED_TYPES or not names & refused


def test_the_supported_types_are_listed_once() -> None:
    with pytest.raises(TypeError, match="'llama' are not supported") as caught:
        adapter_for_config(LlamaConfig())
    listed = re.findall(r"[a-z]\w+(?=[,.])", str(caught.value).split("of type")[-1])
    assert "llava" in listed and len(listed) == len(set(listed))


def test_a_processor_is_refused() -> None:
    processor = PI0Processor.__new__(PI0Processor)
    with pytest.raises(TypeError, match="PI0Processor.*actions of a robot"):
        adapter_for_processor(processor)
    with pytest.raises(TypeError, match="such as PaliGemma"):
        ImagePromptInput(dark_image(30, 30), "what", processor)


@pytest.mark.parametrize("name", MODELS)
def test_each_of_their_image_tokens_sees_every_block(name: str) -> None:
    """They do although no patch sees another: the reason for refusing them is true."""
    model = MODELS[name]()
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            # Queries start from zero, all alike.
            if parameter.dim() == 3 and not parameter.any():
                parameter.normal_()
    before = features_of(model, pixels)
    assert before.shape[0] == NUM_QUERIES
    for y, x in ((2, 3), (20, 5), (4, 28), (28, 28)):
        changed = pixels.clone()
        changed[..., y : y + 3, x : x + 3] += 3.0
        difference = (features_of(model, changed) - before).abs().amax(1)
        assert (difference > 1e-5 * before.abs().max()).all()


def test_an_adapter_that_is_registered_goes_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Places(FamilyAdapter):
        name: ClassVar[str] = "places for queries"
        model_types: ClassVar[tuple[str, ...]] = ("pi0",)
        processor_types: ClassVar[tuple[str, ...]] = ("PI0Processor",)

        def image_tokens(self, image: PreparedImage) -> ImageTokens:
            return self.placed("full", (2, 3), image.whole())

    monkeypatch.setattr(registry, "_ADAPTERS", list(known_families()))
    places = Places()
    register(places)
    assert adapter_for_config(PI0Config()) is places
    processor = PI0Processor.__new__(PI0Processor)
    assert adapter_for_processor(processor) is places
