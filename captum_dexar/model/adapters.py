"""Adapters of peft: what can't be explained, and what mixes the positions of a pass."""

from typing import Any

from torch import nn

_TUNERS = "peft.tuners."
# Packages of peft whose layers do the same to each position of a pass, whatever the
# others are. Lily's layers average over the pass; of others nothing is known, and they
# are checked in every call, like modules of a user's.
_APART = {
    "_buffer_dict",
    "adalora",
    "adamss",
    "adaption_prompt",
    "beft",
    "boft",
    "bone",
    "c3a",
    "deft",
    "delora",
    "fourierft",
    "frod",
    "glora",
    "gralora",
    "hira",
    "hra",
    "ia3",
    "ln_tuning",
    "loha",
    "lokr",
    "lora",
    "lycoris_utils",
    "miss",
    "mixed",
    "oft",
    "osf",
    "peanut",
    "psoft",
    "pvera",
    "randlora",
    "road",
    "shira",
    "supertuning",
    "tinylora",
    "trainable_tokens",
    "tuners_utils",
    "unilora",
    "vblora",
    "vera",
    "waveft",
}
_REFUSED = {
    "poly": (
        "Poly",
        "chooses its weights by task_ids, an argument of every pass that explanations "
        "do not have",
    ),
    "shadow": (
        "Shadow",
        "sends a second state through the decoder layers beside the hidden states",
    ),
    "xlora": (
        "X-LoRA",
        "runs all layers twice in every pass, first to weigh its adapters",
    ),
}
_INSTEAD = (
    "Explain the model within 'with model.disable_adapter():', or use an adapter that "
    "changes weights, such as LoRA."
)
_OTHERWISE = "Load the model without it, or use another adapter, such as LoRA."
# Switched off, it still generates otherwise than it runs.
_NEVER_OFF = "XLoraModel"


def keeps_positions_apart(kind: type) -> bool:
    """Whether layers of a class are none of an adapter's, or of a kind of which it is
    known that they treat each position alone."""
    tuner = _tuner_of(kind)
    return tuner is None or tuner in _APART


def depends_on_ids(module: nn.Module) -> bool:
    """Whether an adapter of a module works from some tokens on (aLoRA): later ones may
    switch it off at earlier positions."""
    variants = getattr(module, "lora_variant", {})
    return any("ALora" in type(variant).__name__ for variant in variants.values())


def check_adapters(model: nn.Module) -> None:
    """Raises RuntimeError for an adapter that can't be explained: one that puts virtual
    tokens before the prompt (peft's prompt tuning, P-tuning, prefix tuning and the
    like), needs more than the model's inputs, or is random."""
    for module in model.modules():
        _check_no_virtual_tokens(module)
        tuner = _tuner_of(type(module))
        if tuner is None or not _is_at_work(module):
            continue
        if tuner in _REFUSED:
            name, reason = _REFUSED[tuner]
            instead = _INSTEAD if tuner != "xlora" else _OTHERWISE
            raise RuntimeError(f"The model's adapter ({name}) {reason}. {instead}")
        if any(_options(module, "sample_at_inference")):
            raise RuntimeError(
                "The model's adapter (PVeRA) draws random numbers in every pass, so "
                "that every explanation would be a different one. Set its "
                "sample_at_inference to False."
            )


def _check_no_virtual_tokens(module: Any) -> None:
    if not hasattr(type(module), "active_peft_config") or module._adapters_disabled:
        return
    config = module.active_peft_config
    if getattr(config, "is_prompt_learning", False):
        raise RuntimeError(
            f"The model's adapter '{module.active_adapter}' "
            f"({type(config).__name__}) puts {config.num_virtual_tokens} virtual "
            "tokens before the prompt, so that positions and keys are not those of "
            f"the input. {_INSTEAD}"
        )


def _tuner_of(kind: type) -> str | None:
    """The package in peft that a class comes from, if it is one of an adapter's."""
    module = kind.__module__
    if not module.startswith(_TUNERS):
        return None
    return module.removeprefix(_TUNERS).partition(".")[0]


def _is_at_work(module: Any) -> bool:
    """Whether a module is a layer with adapters that are switched on."""
    # By its class: a model of peft's looks for other attributes in what it wraps.
    if isinstance(getattr(type(module), "disable_adapters", None), property):
        return bool(module.active_adapters) and not module.disable_adapters
    return type(module).__name__ == _NEVER_OFF


def _options(module: Any, name: str) -> list[Any]:
    """An option that a layer keeps for each of its adapters, of those at work."""
    values = vars(module).get(name, {})
    return [values[one] for one in module.active_adapters if one in values]
