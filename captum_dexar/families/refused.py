"""Families that are refused: their image tokens have no place on the image."""

from typing import Any

_QUERIES = (
    "image tokens are learned queries, each of which reads the whole image through "
    "{reader}, so that none has a place on it. A map would have to follow {reader}'s "
    "own attention back to the patches, which is another method"
)
_QFORMER = _QUERIES.format(reader="the Q-Former")
_RESAMPLER = _QUERIES.format(reader="the resampler")

REFUSED_MODELS = {
    "blip-2": _QFORMER,
    "instructblip": _QFORMER,
    "idefics2": _RESAMPLER,
    "kosmos-2": _RESAMPLER,
}
REFUSED_PROCESSORS = {
    "Blip2Processor": _QFORMER,
    "InstructBlipProcessor": _QFORMER,
    "Idefics2Processor": _RESAMPLER,
    "Kosmos2Processor": _RESAMPLER,
}


def refuse_model(config: Any) -> None:
    """Raises TypeError if models of this configuration are known to have no map."""
    model_type = getattr(config, "model_type", None)
    reason = REFUSED_MODELS.get(str(model_type))
    if reason is not None:
        raise TypeError(_message(f"Models of type {model_type!r}", reason))


def refuse_processor(processor: Any) -> None:
    """Raises TypeError if the processor belongs to a model that has no map."""
    for base in type(processor).__mro__:
        reason = REFUSED_PROCESSORS.get(base.__name__)
        if reason is not None:
            raise TypeError(_message(type(processor).__name__, reason))


def _message(what: str, reason: str) -> str:
    return (
        f"{what}: not supported, because in this family {reason}. If you know places "
        "for its image tokens, register an adapter (captum_dexar.families.register); "
        "otherwise use a model with a grid of patches."
    )
