"""Resizes maps to the shape of the pixels, as Captum's metrics require."""

from torch import nn, Tensor


def on_pixels(attributions: Tensor, pixels: Tensor, mode: str = "bilinear") -> Tensor:
    r"""Upsamples maps to the model's pixels, the same for every channel.

    ``captum.metrics.infidelity`` compares the change of the output with
    :math:`\sum_p \text{perturbation}_p \cdot \text{attribution}_p`, so it needs an
    attribution for every element of its input. Values are not divided by the number of
    pixels or channels: the metric's ``normalize=True`` finds the best scale.

    Not for models whose pixels are tiles or rows of patches.

    Args:
        attributions (Tensor): ``(N, 1, h, w)``, as :meth:`LayerDexAR.attribute` returns
        pixels (Tensor): the model's pixels, ``(N, channels, H, W)``
        mode (str, optional): as in ``torch.nn.functional.interpolate``.
            Default: ``"bilinear"``

    Returns:
        *Tensor* ``(N, channels, H, W)``

    Raises:
        ValueError: the shapes do not match.

    Examples::

        >>> import torch
        >>> from captum.metrics import infidelity
        >>> from captum_dexar import ImagePromptInput, LayerDexAR, VLMForward
        >>> from captum_dexar.metrics import on_pixels
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> inputs = dict(inp.to_model_input())
        >>> pixels = inputs.pop("pixel_values")  # (1, 3, 96, 96)
        >>> arguments = (inputs.pop("input_ids"), inputs)
        >>> attr = LayerDexAR(model).attribute(pixels, 7, arguments)
        >>> def perturb(pixels):
        ...     noise = 0.1 * torch.randn_like(pixels)
        ...     return noise, pixels - noise
        >>> infidelity(
        ...     VLMForward(model),
        ...     perturb,
        ...     pixels,
        ...     on_pixels(attr, pixels),
        ...     additional_forward_args=arguments,
        ...     target=7,
        ...     normalize=True,
        ... ).shape
        torch.Size([1])
    """
    is_map = attributions.dim() == 4 and attributions.shape[1] == 1
    if not is_map or pixels.dim() != 4 or len(attributions) != len(pixels):
        raise ValueError(
            "Expected maps (N, 1, h, w) and pixels (N, channels, H, W), got "
            f"{tuple(attributions.shape)} and {tuple(pixels.shape)}. Pixels of another "
            "shape are tiles or patches, to which a map can't be resized."
        )
    smooth = {"align_corners": False} if mode in ("bilinear", "bicubic") else {}
    larger: Tensor = nn.functional.interpolate(
        attributions.detach(), pixels.shape[-2:], mode=mode, **smooth
    )
    return larger.expand_as(pixels).to(pixels).contiguous()
