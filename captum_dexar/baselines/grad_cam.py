"""Grad-CAM on the image tokens."""

from collections.abc import Callable
from typing import Any

import torch
from captum_dexar.baselines.baseline import LayerBaseline
from captum_dexar.decoding import DecodingSteps
from captum_dexar.model.decoder import find_decoder
from captum_dexar.model.layers import hidden_argument, with_hidden
from captum_dexar.model.states import positions_first
from captum_dexar.model.target_logits import TargetLogits
from captum_dexar.model.thread_hooks import forward_pre_hooks
from torch import Tensor


class LayerImageGradCam(LayerBaseline):
    r"""Grad-CAM on the image tokens that enter the language model.

    :math:`relu(\sum_c \alpha_c a_c)`, where :math:`a` are the image tokens at the
    decoder's input and :math:`\alpha_c` is the mean over image tokens of the gradient
    of the explained token's logit with respect to channel :math:`c`. These are the last
    features that form a grid over the image. Needs one forward pass, and one backward
    pass per decoding step.

    More details can be found in the paper: R. Selvaraju et al., *Grad-CAM*, 2017,
    https://arxiv.org/abs/1610.02391

    Args:
        forward_func, device_ids: as in :class:`LayerDexAR`
        layer (nn.Module or list of nn.Module, optional): not used. Default: None

    Examples::

        >>> from captum_dexar import ImagePromptInput, VLMAttribution
        >>> from captum_dexar.baselines import LayerImageGradCam
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> method = VLMAttribution(LayerImageGradCam(model), processor)
        >>> method.attribute(inp, "the image shows a red circle .").token_attr.shape
        torch.Size([7, 144])
    """

    name = "Grad-CAM (image tokens)"

    def layer_attributions(
        self, steps: DecodingSteps, cache: Any, on_layer: Callable[[], object]
    ) -> tuple[Tensor, TargetLogits, list[int]]:
        """See :meth:`LayerBaseline.layer_attributions`.

        Raises:
            TypeError: the model reads the image by cross-attention.
        """
        if self.adapter.cross_attention is not None or steps.prompt.encoder_keys:
            raise TypeError(
                f"{self.get_name()} is not defined for {self.adapter.name}: its image "
                "tokens do not enter the decoder, which reads them by cross-attention."
            )
        decoder = find_decoder(self.model)
        leaves: list[Tensor] = []

        def start_graph(module: Any, args: Any, kwargs: Any) -> Any:
            leaves.append(hidden_argument(args, kwargs).detach().requires_grad_())
            return with_hidden(args, kwargs, leaves[0])

        hooks = forward_pre_hooks({decoder.layers[0]: start_graph}, with_kwargs=True)
        with torch.enable_grad(), hooks:
            logits = steps.full_pass().logits()

        def of_image(hidden: Tensor) -> Tensor:
            """The image tokens' features, of several streams side by side."""
            rows = positions_first(decoder.layers[0], hidden).flatten(2)
            index = steps.prompt.image_keys.to(rows.device)[..., None]
            return rows.gather(1, index.expand(-1, -1, rows.shape[-1])).float()

        tokens = of_image(leaves[0].detach())
        maps = []
        for step in range(steps.num_steps):
            target = steps.target_ids[:, step].to(logits.device)
            # Captum's metrics and NoiseTunnel call this without gradients.
            with torch.enable_grad():
                reading = logits[:, step].gather(1, target[:, None]).sum()
            (gradient,) = torch.autograd.grad(reading, leaves, retain_graph=True)
            weights = of_image(gradient).mean(1, keepdim=True)
            maps.append((tokens * weights).sum(-1).relu())
        on_layer()
        attributions = torch.stack(maps, dim=1)[:, :, None]
        target_logits = TargetLogits.of(logits.detach(), steps.target_ids)
        return attributions, target_logits, [0]
