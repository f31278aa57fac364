"""A vision-language model with the calling convention of Captum's methods."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from captum_dexar.families import adapter_for_config, FamilyAdapter
from torch import nn, Tensor

OtherInputs = Mapping[str, Any] | None


class VLMForward(nn.Module):
    r"""Next-token logits of a vision-language model, as a function of its pixels.

    Captum calls ``forward_func`` with positional arguments and wants a tensor back;
    Hugging Face models take keyword arguments in an order of their own and return an
    output object. This stands between them, so that Integrated Gradients, Saliency,
    Occlusion and :class:`LayerDexAR` are called with the same arguments.

    Args:

        model (nn.Module): a Hugging Face vision-language model

    Raises:

        TypeError: the model is no module.

    Examples::

        >>> import torch
        >>> from captum.attr import IntegratedGradients
        >>> from captum_dexar import ImagePromptInput, VLMForward
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> image = make_scene(0).image
        >>> inp = ImagePromptInput(image, "Describe the image.", processor)
        >>> inputs = dict(inp.to_model_input())
        >>> pixel_values = inputs.pop("pixel_values")  # (1, 3, 96, 96)
        >>> forward = VLMForward(model)
        >>> next_token = forward(pixel_values, inputs["input_ids"]).argmax(-1)
        >>> attr = IntegratedGradients(forward).attribute(
        ...     pixel_values,
        ...     target=next_token,
        ...     additional_forward_args=(inputs.pop("input_ids"), inputs),
        ...     n_steps=4,
        ... )
        >>> attr.shape
        torch.Size([1, 3, 96, 96])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(
                "model must be a Hugging Face vision-language model, got "
                f"{type(model).__name__}."
            )
        self.model = model
        self._keeps_last = "logits_to_keep" in signature(model.forward).parameters

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        other_model_inputs: OtherInputs = None,
    ) -> Tensor:
        """Logits of the token after the prompt.

        Args:

            pixel_values (Tensor): ``(N, ...)``, as the processor makes them; for
                models whose pixels are a flat list of patches or tiles, those of all
                examples one after the other. Methods that repeat or perturb rows one by
                one (NoiseTunnel, GradientShap) need an axis for the examples before
                that: give them ``pixel_values[None]``.
            input_ids (Tensor): ``(N, tokens)``, or ``(1, tokens)`` for all examples;
                shorter prompts padded on the left. For an encoder-decoder model the
                prompt of the encoder; ``decoder_input_ids`` belong to the others
            other_model_inputs (Mapping, optional): the model's further inputs
                (``attention_mask`` ...), for as many examples as ``input_ids`` has or
                for one. Default: None

        Returns:

            *Tensor* of **logits**, ``(N, vocabulary)``
        """
        adapter = adapter_for_config(getattr(self.model, "config", None))
        inputs = joined_inputs(pixel_values, input_ids, other_model_inputs, adapter)
        config: Any = self.model.config
        if adapter.is_encoder_decoder(config):
            inputs = adapter.with_decoder_start(inputs, config)
        if self._keeps_last:
            inputs["logits_to_keep"] = 1
        logits: Tensor = self.model(**inputs).logits
        return logits[:, -1]


def joined_inputs(
    pixel_values: Tensor,
    input_ids: Tensor,
    other_model_inputs: OtherInputs,
    adapter: FamilyAdapter,
) -> dict[str, Any]:
    """One mapping of all inputs, each repeated to the number of examples.

    Captum repeats pixels and ids when it evaluates several points at once, but not the
    tensors inside a mapping.

    Raises:
        TypeError: the ids are no tensor, or the others no mapping.
        ValueError: numbers of examples do not agree.
    """
    if not isinstance(input_ids, Tensor):
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
    # Some processors return what training needs as well.
    others.pop("labels", None)
    for name in (adapter.pixel_input, "input_ids"):
        if name in others:
            raise ValueError(
                f"other_model_inputs must not hold {name!r}, which is an argument of "
                "its own."
            )
    if adapter.flat_pixels:
        if pixel_values.dim() == adapter.pixel_dims + 1:
            pixel_values = pixel_values.flatten(0, 1)
        repeats = _repeats(input_ids, others)
        others = {name: _tiled(value, repeats) for name, value in others.items()}
        return {adapter.pixel_input: pixel_values, "input_ids": input_ids, **others}
    batch = pixel_values.shape[0]
    joined = {adapter.pixel_input: pixel_values, "input_ids": input_ids, **others}
    return {name: _for_batch(value, batch, name) for name, value in joined.items()}


def _repeats(input_ids: Tensor, others: Mapping[str, Any]) -> int:
    """How often Captum has repeated the examples, of which the mapping holds one."""
    mask = others.get("attention_mask")
    examples = mask.shape[0] if isinstance(mask, Tensor) else 1
    if input_ids.shape[0] % examples:
        raise ValueError(
            f"input_ids has {input_ids.shape[0]} examples, but attention_mask has "
            f"{examples}."
        )
    return int(input_ids.shape[0]) // examples


def _tiled(value: Any, repeats: int) -> Any:
    if repeats == 1 or not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return value.repeat(repeats, *[1] * (value.dim() - 1))


def _for_batch(value: Any, batch: int, name: str) -> Any:
    if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] == batch:
        return value
    if bool((value == value[:1]).all()):
        # Some models take a view of their inputs, which an expanded tensor refuses.
        return value[:1].expand(batch, *value.shape[1:]).contiguous()
    raise ValueError(
        f"{name} has {value.shape[0]} examples, but pixel_values has {batch}. Where a "
        "Captum method repeats the input, explain one example at a time or give every "
        "example the same prompt length."
    )
