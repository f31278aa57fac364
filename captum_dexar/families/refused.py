"""Models that are refused by name: an answer of theirs has no map of an image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _always(config: Any) -> bool:
    return True


def _has_other_encoder(config: Any) -> bool:
    text = config.text_config
    return bool(text.is_encoder_decoder) and text.model_type != "t5"


@dataclass(frozen=True)
class Refusal:
    """Why some models have no maps, and what to do.

    Attributes:
        model_types (tuple of str): ``config.model_type`` of the models
        processor_types (tuple of str): class names of processors that belong to no
            other models
        reason (str): why they have no maps, to follow "not supported, because"
        instead (str): what to do, as a sentence
        applies (Callable): whether a configuration of these types is refused. Default:
            all are
        only (str): which models of the types are refused, if not all. Default: ""
    """

    model_types: tuple[str, ...]
    processor_types: tuple[str, ...]
    reason: str
    instead: str
    applies: Callable[[Any], bool] = _always
    only: str = ""


REFUSALS: tuple[Refusal, ...] = (
    # Their processors also belong to models that have an adapter.
    *(
        Refusal(
            (model_type,),
            (),
            "the cross-attention of their decoders has not been tested",
            "Use a model whose language model is T5, or a decoder.",
            applies=_has_other_encoder,
            only=" with an encoder-decoder other than T5 as language model",
        )
        for model_type in ("blip-2", "instructblip")
    ),
    Refusal(
        ("instructblipvideo",),
        ("InstructBlipVideoProcessor",),
        "they read a video of four frames, each through queries of its own, and videos "
        "are not supported",
        "Use InstructBLIP, which reads an image in the same way.",
    ),
    Refusal(
        ("diffusion_gemma",),
        (),  # Gemma4Processor also belongs to Gemma 4.
        "they denoise a block of tokens in several steps, so that no token is "
        "predicted from the position before it, which is what a map explains",
        "Use a model that writes one token after the other, such as Gemma 4.",
    ),
    Refusal(
        ("pi0",),
        ("PI0Processor",),
        "they predict the actions of a robot, and no text whose words could be mapped",
        "Use a model that answers in text, such as PaliGemma, on which they are built.",
    ),
    Refusal(
        ("evolla",),
        ("EvollaProcessor",),
        "they read proteins, and no image that an answer could be mapped to",
        "Use a vision-language model.",
    ),
    Refusal(
        ("mistral4",),
        (),
        "on their own they read text only, and no image that an answer could be "
        "mapped to",
        "As the text part of a vision-language model (model type 'mistral3') they are "
        "supported; for text alone use captum.attr.LLMAttribution.",
    ),
)


def refuse_model(config: Any) -> None:
    """Raises TypeError if models of this configuration are known to have no map."""
    model_type = getattr(config, "model_type", None)
    for refusal in REFUSALS:
        if model_type in refusal.model_types and refusal.applies(config):
            raise _error(f"Models of type {model_type!r}{refusal.only}", refusal)


def refuse_processor(processor: Any) -> None:
    """Raises TypeError if the processor belongs to a model that has no map."""
    for base in type(processor).__mro__:
        for refusal in REFUSALS:
            if base.__name__ in refusal.processor_types:
                raise _error(f"Models of {type(processor).__name__}", refusal)


def _error(what: str, refusal: Refusal) -> TypeError:
    return TypeError(
        f"{what} are not supported, because {refusal.reason}. {refusal.instead}"
    )
