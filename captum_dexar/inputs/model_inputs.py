"""Converts every supported form of input to the model's keyword arguments."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from captum.attr import ImageMaskInput
from captum_dexar.families import adapter_for_config, FamilyAdapter
from captum_dexar.model.state import device_of
from torch import nn, Tensor

OtherInputs = Mapping[str, Any] | None


def model_inputs_of(inp: Any, model: nn.Module) -> dict[str, Any]:
    """Keyword arguments of the model for one prompt, on its device.

    Args:
        inp (ImagePromptInput, ImageMaskInput or Mapping): as in :class:`VLMAttribution`
        model (nn.Module): the model, for its device and dtype

    Raises:
        TypeError: ``inp`` has another type.
        ValueError: it has no image, no prompt, several prompts, or non-finite pixels.
    """
    made = inp.to_model_input() if isinstance(inp, ImageMaskInput) else inp
    if not isinstance(made, Mapping):
        raise TypeError(
            "inp must be an ImagePromptInput, a captum ImageMaskInput whose "
            "processor_fn returns the processor's output, or that output itself (a "
            f"mapping), got {type(made).__name__}."
        )
    config: Any = getattr(model, "config", None)
    adapter = adapter_for_config(config)
    inputs = {
        key: prepared(value, model)
        for key, value in adapter.named(made, config).items()
        if value is not None and key != "labels"
    }
    check_image_and_prompt(inputs, adapter, config)
    batch = num_examples(inputs, adapter)
    if batch != 1:
        raise ValueError(f"inp must hold one prompt, got {batch}.")
    return inputs


def positional_inputs(
    inputs: Any, additional_forward_args: Any, model: nn.Module
) -> dict[str, Any]:
    """Converts Captum's positional arguments to the model's keyword arguments.

    Args:
        inputs (Tensor or tuple of Tensor): ``pixel_values``, one row per example
        additional_forward_args (tuple): ``(input_ids, other_model_inputs)``
        model (nn.Module): the model, for its device and dtype
    """
    pixel_values = inputs
    if isinstance(inputs, tuple) and len(inputs) == 1:
        pixel_values = inputs[0]
    if not isinstance(pixel_values, Tensor):
        raise TypeError(
            "inputs must be the pixel_values tensor (ids belong to "
            f"additional_forward_args), got {type(inputs).__name__}."
        )
    arguments = additional_forward_args
    if not isinstance(arguments, tuple):
        arguments = (arguments,)
    adapter = adapter_for_config(getattr(model, "config", None))
    # A decoder's start token need not be given.
    is_missing = arguments[0] is None and adapter.prompt_input == "input_ids"
    if not 1 <= len(arguments) <= 2 or is_missing:
        raise ValueError(
            "additional_forward_args must be (input_ids, other_model_inputs), got "
            f"{'None' if arguments == (None,) else f'{len(arguments)} arguments'}."
        )
    others = arguments[1] if len(arguments) == 2 else None
    joined = joined_inputs(pixel_values, arguments[0], others, adapter)
    model_inputs = {name: prepared(value, model) for name, value in joined.items()}
    model_inputs[adapter.pixel_input] = model_inputs[adapter.pixel_input].detach()
    check_image_and_prompt(model_inputs, adapter, model.config)
    return model_inputs


def prepared(value: Any, model: nn.Module) -> Any:
    """A tensor on the model's device; a floating point one also in its dtype."""
    if not isinstance(value, Tensor):
        return value
    dtype = model_dtype(model) if value.is_floating_point() else value.dtype
    moved = value.to(device=device_of(model), dtype=dtype)
    # Autograd rejects tensors made under torch.inference_mode.
    return moved.clone() if moved.is_inference() else moved


def check_image_and_prompt(
    inputs: Mapping[str, Any], adapter: FamilyAdapter, config: Any
) -> None:
    """Raises ValueError unless there are left-padded ids and finite pixels.

    The prompt of an encoder may be right-padded: the answer is not appended to it.
    """
    if inputs.get("pixel_values_videos") is not None:
        raise ValueError(
            "The input holds a video ('pixel_values_videos'), but only images can be "
            "explained. Pass single frames."
        )
    ids = inputs.get(adapter.prompt_input)
    if ids is None and adapter.prompt_input == "input_ids":
        raise ValueError(
            f"The input has no 'input_ids', only {sorted(inputs)}. Pass the "
            "processor's output for an image and a text."
        )
    pixels = inputs.get(adapter.pixel_input)
    if pixels is None:
        raise ValueError(
            f"The input has no image: {adapter.pixel_input!r} is missing from "
            f"{sorted(inputs)}. Pass the processor an image as well as a text."
        )
    required = adapter.inputs_required_by(config)
    missing = [name for name in required if inputs.get(name) is None]
    if missing:
        raise ValueError(
            f"The input has no {' and no '.join(map(repr, missing))}, only "
            f"{sorted(inputs)}. A model of the family {adapter.name} was trained with "
            "it. Pass everything that the processor returns."
        )
    _check_entries_per_token(inputs, adapter, config)
    if ids is not None and ids.dim() != 2:
        raise ValueError(
            f"{adapter.prompt_input} must be (batch, tokens), got shape "
            f"{tuple(ids.shape)}."
        )
    mask = inputs.get("attention_mask")
    is_right_padded = (
        isinstance(mask, Tensor) and mask.dim() == 2 and not bool(mask[:, -1].all())
    )
    if is_right_padded and not adapter.is_encoder_decoder(config):
        raise ValueError(
            "A prompt ends with padding, but the answer follows the last position. Pad "
            "on the left: processor.tokenizer.padding_side = 'left'."
        )
    if not bool(torch.isfinite(pixels).all()):
        raise ValueError(
            f"{adapter.pixel_input} holds NaN or infinite values, so every attribution "
            "would be NaN. Check the image and its normalisation."
        )


def num_examples(inputs: Mapping[str, Any], adapter: FamilyAdapter) -> int:
    """Number of prompts; a decoder's start token need not be among the inputs."""
    ids = inputs.get(adapter.prompt_input)
    rows: Tensor = inputs[adapter.pixel_input] if ids is None else ids
    return rows.shape[0]


def _check_entries_per_token(
    inputs: Mapping[str, Any], adapter: FamilyAdapter, config: Any
) -> None:
    """Raises ValueError for an input that has to grow with the answer in a way that the
    adapter does not know."""
    ids = inputs.get(adapter.prompt_input)
    if ids is None or adapter.is_encoder_decoder(config):
        return
    known = {
        adapter.prompt_input,
        "position_ids",
        adapter.pixel_input,
        *adapter.grid_inputs,
        *adapter.sequence_inputs,
    }
    unknown = [
        name
        for name, value in inputs.items()
        if isinstance(value, Tensor) and value.shape == ids.shape and name not in known
    ]
    if unknown:
        raise ValueError(
            f"{' and '.join(map(repr, unknown))} of the input have an entry for each "
            f"of the {ids.shape[1]} tokens of the prompt, and which entries the tokens "
            f"of an answer have is not known for models of the family {adapter.name}. "
            "Leave them out if the model does without, or register an adapter that "
            "has them in sequence_inputs (captum_dexar.families)."
        )


def model_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the model's floating point parameters."""
    return next(p.dtype for p in model.parameters() if p.is_floating_point())


def joined_inputs(
    pixel_values: Tensor,
    input_ids: Tensor | None,
    other_model_inputs: OtherInputs,
    adapter: FamilyAdapter,
) -> dict[str, Any]:
    """All inputs in one mapping, each repeated to the number of examples.

    Captum repeats pixels and ids when it evaluates several points at once, but not the
    tensors inside a mapping.
    """
    name_of_ids = adapter.prompt_input
    is_left_out = input_ids is None and name_of_ids != "input_ids"
    if not is_left_out and not isinstance(input_ids, Tensor):
        raise TypeError(
            "additional_forward_args must be (input_ids, other_model_inputs), got "
            f"{type(input_ids).__name__} as input_ids."
        )
    if other_model_inputs is not None and not isinstance(other_model_inputs, Mapping):
        raise TypeError(
            "other_model_inputs must be a mapping of names to model inputs, got "
            f"{type(other_model_inputs).__name__}."
        )
    others = dict(other_model_inputs or {})
    # Some processors also return training labels.
    others.pop("labels", None)
    for name in (adapter.pixel_input, name_of_ids):
        if name in others:
            raise ValueError(
                f"other_model_inputs must not hold {name!r}, which is a separate "
                "argument."
            )
    if adapter.flat_pixels:
        if pixel_values.dim() == adapter.pixel_dims + 1:
            pixel_values = pixel_values.flatten(0, 1)
        assert input_ids is not None
        repeats = _repeats(input_ids, others)
        others = {name: tiled(value, repeats) for name, value in others.items()}
        flat = {adapter.pixel_input: pixel_values, name_of_ids: input_ids, **others}
        return adapter.joined(flat, repeats)
    batch = pixel_values.shape[0]
    joined = {adapter.pixel_input: pixel_values, **others}
    if input_ids is not None:
        joined[name_of_ids] = input_ids
    return {name: _for_batch(value, batch, name) for name, value in joined.items()}


def _repeats(input_ids: Tensor, others: Mapping[str, Any]) -> int:
    """How often Captum has repeated the ids, but not the tensors in the mapping."""
    mask = others.get("attention_mask")
    examples = mask.shape[0] if isinstance(mask, Tensor) else 1
    if input_ids.shape[0] % examples:
        raise ValueError(
            f"input_ids has {input_ids.shape[0]} examples, but attention_mask has "
            f"{examples}."
        )
    return int(input_ids.shape[0]) // examples


def tiled(value: Any, repeats: int) -> Any:
    """A model input repeated along its first axis, if it is a tensor with axes."""
    if repeats == 1 or not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return value.repeat(repeats, *[1] * (value.dim() - 1))


def _for_batch(value: Any, batch: int, name: str) -> Any:
    if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] == batch:
        return value
    if bool((value == value[:1]).all()):
        # Some models call view() on their inputs, which fails for an expanded tensor.
        return value[:1].expand(batch, *value.shape[1:]).contiguous()
    raise ValueError(
        f"{name} has {value.shape[0]} examples, but pixel_values has {batch}. If "
        "a Captum method repeats the input, explain one example at a time or use "
        "prompts of equal length."
    )


def logits_of(model: nn.Module, positions: int | Tensor) -> dict[str, Any]:
    """Arguments that restrict a model's logits to some positions.

    A few models have no such argument; others accept it and ignore it.
    """
    parameters = signature(model.forward).parameters.values()
    has_argument = any(
        parameter.name == "logits_to_keep" or parameter.kind is parameter.VAR_KEYWORD
        for parameter in parameters
    )
    return {"logits_to_keep": positions} if has_argument else {}


def complete_inputs(
    adapter: FamilyAdapter, inputs: Mapping[str, Any], config: Any
) -> dict[str, Any]:
    """A copy with an attention mask, and the position ids or the decoder's start token
    that the family needs."""
    complete = adapter.as_generated(
        {key: value for key, value in inputs.items() if value is not None}, config
    )
    if "input_ids" in complete:
        complete.setdefault("attention_mask", torch.ones_like(complete["input_ids"]))
    if adapter.is_encoder_decoder(config):
        return adapter.with_decoder_start(complete, config)
    positions = adapter.position_ids(complete["attention_mask"])
    if positions is not None:
        complete.setdefault("position_ids", positions)
    return complete
