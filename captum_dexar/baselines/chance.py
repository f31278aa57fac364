"""Uninformative maps, which show the chance level of a metric."""

from collections.abc import Callable
from typing import Any

import torch
from captum_dexar.baselines.baseline import LayerBaseline
from captum_dexar.baselines.token_activation import check_neighbours
from captum_dexar.decoding import DecodingSteps
from captum_dexar.model.target_logits import TargetLogits
from torch import nn, Tensor


class LayerUniformMap(LayerBaseline):
    """The same value on every image token.

    Args:
        forward_func, layer, device_ids: as in :class:`LayerDexAR`; the layer does not
            matter

    Examples::

        >>> from captum_dexar import ImagePromptInput, VLMAttribution
        >>> from captum_dexar.baselines import LayerUniformMap
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> method = VLMAttribution(LayerUniformMap(model), processor)
        >>> bool((method.attribute(inp, target=[5]).token_attr == 1).all())
        True
    """

    name = "Uniform map (chance)"

    def layer_attributions(
        self, steps: DecodingSteps, cache: Any, on_layer: Callable[[], object]
    ) -> tuple[Tensor, TargetLogits, list[int]]:
        """See :meth:`LayerBaseline.layer_attributions`."""
        with torch.no_grad():
            target_logits = steps.cheapest_pass(cache).run()
        maps = self._maps(steps)
        return (
            maps[:, :, None].to(target_logits.logits.device),
            target_logits,
            self.layer_indices[-1:],
        )

    def _maps(self, steps: DecodingSteps) -> Tensor:
        return torch.ones(*steps.target_ids.shape, steps.prompt.image_keys.shape[1])


class LayerRandomMap(LayerUniformMap):
    """Smoothed noise, different for every decoding step, the same for all examples.

    Args:
        forward_func, layer, device_ids: as in :class:`LayerUniformMap`
        seed (int, optional): seed of the noise. Default: 0

    Examples::

        >>> from captum_dexar import ImagePromptInput, VLMAttribution
        >>> from captum_dexar.baselines import LayerRandomMap
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> method = VLMAttribution(LayerRandomMap(model, seed=1), processor)
        >>> method.attribute(inp, target=[5, 6]).token_maps.shape
        torch.Size([2, 12, 12])
    """

    name = "Random smooth map (chance)"

    def __init__(
        self,
        forward_func: nn.Module,
        layer: nn.Module | list[nn.Module] | None = None,
        device_ids: list[int] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self.seed = seed

    def _maps(self, steps: DecodingSteps) -> Tensor:
        """Noise at a quarter of each view's resolution, interpolated."""
        check_neighbours(self.get_name(), steps.prompt)
        generator = torch.Generator().manual_seed(self.seed)
        num_examples, num_tokens = steps.prompt.image_keys.shape
        last = steps.first_step + steps.num_steps
        maps = torch.zeros(1, last, num_tokens)
        for view in steps.prompt.layout.views:
            coarse = [max(2, side // 4) for side in view.grid]
            noise = torch.rand(1, last, *coarse, generator=generator)
            smooth = nn.functional.interpolate(
                noise, view.grid, mode="bicubic", align_corners=False
            )
            maps[..., view.tokens] = smooth.flatten(2).clamp(min=0)
        # A map must not depend on which other examples a batch holds.
        return maps[:, steps.first_step :].expand(num_examples, -1, -1)
