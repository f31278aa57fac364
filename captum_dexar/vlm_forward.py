"""A vision-language model with the calling convention of Captum's methods."""

from inspect import signature
from typing import Any

from captum_dexar.families import adapter_for_config
from captum_dexar.inputs.model_inputs import joined_inputs, OtherInputs
from captum_dexar.model.wrappers import check_not_parallel
from torch import nn, Tensor


class VLMForward(nn.Module):
    r"""Next-token logits of a vision-language model, as a function of its pixels.

    Captum calls ``forward_func`` with positional arguments and expects a tensor, but
    Hugging Face models take keyword arguments and return an output object. With this
    wrapper, Integrated Gradients, Saliency, Occlusion and :class:`LayerDexAR` are
    called with the same arguments.

    Args:
        model (nn.Module): a Hugging Face vision-language model

    Raises:
        TypeError: the model is not an ``nn.Module``.

    Examples::

        >>> import torch
        >>> from captum.attr import IntegratedGradients
        >>> from captum_dexar import ImagePromptInput, VLMForward
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
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
        check_not_parallel(model)
        self.model = model
        self._keeps_last = "logits_to_keep" in signature(model.forward).parameters

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor | None = None,
        other_model_inputs: OtherInputs = None,
    ) -> Tensor:
        """Logits of the token after the prompt.

        Args:
            pixel_values (Tensor): ``(N, ...)``, as returned by the processor. If a
                model's pixels are a flat list of patches or tiles, those of all
                examples are concatenated. Methods that repeat or perturb single rows
                (NoiseTunnel, GradientShap) then need a leading axis for the examples:
                pass them ``pixel_values[None]``.
            input_ids (Tensor): ``(N, tokens)``, or ``(1, tokens)`` for all examples;
                shorter prompts padded on the left. For an encoder-decoder model, the
                encoder's prompt; ``decoder_input_ids`` belong to the other inputs.
                Where an encoder reads the image alone, the decoder's ids, or None for
                its start token
            other_model_inputs (Mapping, optional): further inputs of the model
                (``attention_mask`` ...), for one example or as many as ``input_ids``
                has. Default: None

        Returns:
            *Tensor* of **logits**, ``(N, vocabulary)``
        """
        adapter = adapter_for_config(getattr(self.model, "config", None))
        inputs = joined_inputs(pixel_values, input_ids, other_model_inputs, adapter)
        config: Any = self.model.config
        inputs = adapter.as_generated(inputs, config)
        if adapter.is_encoder_decoder(config):
            inputs = adapter.with_decoder_start(inputs, config)
        if self._keeps_last:
            inputs["logits_to_keep"] = 1
        logits: Tensor = self.model(**inputs).logits
        return logits[:, -1]
