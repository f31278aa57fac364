"""Equations (4) to (6) accumulated over the layers of a pass."""

from collections.abc import Callable

import torch
from captum_dexar.attention_gradients import LayerGradients
from captum_dexar.decoding.step_attributions import StepAttributions
from captum_dexar.methods import scoring
from captum_dexar.methods.options import DexAROptions
from captum_dexar.model.target_logits import TargetLogits
from torch import nn, Tensor

# Maps of single layers and weights of single heads are kept up to so many bytes.
KEPT_BYTES = 64 * 2**20


class AnswerScores:
    """Sums and maxima over layers and heads.

    Memory does not grow with the number of layers, unless the maps and weights of each
    are kept.

    Args:
        image_keys (Tensor): positions of the image tokens, ``(batch, image tokens)``
        steps (slice): which steps of the answer are explained
        layer_indices (list of int): the chosen layers, in the user's order
        options (DexAROptions): head filter, ``top_k``, what is kept of each layer
    """

    def __init__(
        self,
        image_keys: Tensor,
        steps: slice,
        layer_indices: list[int],
        options: DexAROptions,
    ) -> None:
        self.layer_indices = layer_indices
        self.options = options
        self.first_step = steps.start
        self.num_steps = steps.stop - steps.start
        batch, num_tokens = image_keys.shape
        self.shape = (batch, self.num_steps, num_tokens)
        keep_layers = options.keep_layers
        if keep_layers is None:
            # For the answer so far, explained in earlier parts or now.
            size = batch * steps.stop * num_tokens * len(layer_indices) * 4
            keep_layers = size <= KEPT_BYTES
        self.keep_layers = keep_layers
        self._sum: Tensor | None = None
        self._best_image: Tensor | None = None
        self._best_text: Tensor | None = None
        # Of each contrast: by how much the image exceeds the text, and both together.
        self._excess: Tensor | None = None
        self._both: Tensor | None = None
        self._rivals: Tensor | None = None
        self._maps: Tensor | None = None
        self._weights: Tensor | None = None
        self._seen: set[int] = set()

    def add(
        self,
        gradients: LayerGradients,
        on_layer: Callable[[int], object] | None = None,
    ) -> None:
        """Adds some steps of one layer; ``on_layer`` is called with their number."""
        image = scoring.head_scores(
            gradients.image, gradients.num_image_keys, top_k=self.options.top_k
        )
        text = scoring.head_scores(
            gradients.text_blocks, gradients.num_text_keys, top_k=self.options.top_k
        )
        weights = scoring.head_weights(
            image, text, head_filter=self.options.head_filter
        )
        num_contrasts = self.options.num_contrasts
        layer_map = scoring.token_map(gradients.image, weights) / num_contrasts
        if self._sum is None or self._best_image is None or self._best_text is None:
            self._sum = layer_map.new_zeros(self.shape)
            self._best_image = layer_map.new_zeros(self.shape[:2])
            self._best_text = layer_map.new_zeros(self.shape[:2])
        device, steps = self._sum.device, self._places(gradients.steps)
        self._add_shares(gradients.contrast, steps, image.to(device), text.to(device))
        self._add_rivals(gradients, steps)
        self._sum[:, steps] += layer_map.to(device)
        for best, scores in ((self._best_image, image), (self._best_text, text)):
            highest = scores.amax(-1).to(device)
            best[:, steps] = torch.maximum(best[:, steps], highest)
        layer = gradients.layer
        if self.keep_layers:
            self._maps = self._kept(self._maps, layer, steps, layer_map)
            of_contrast = weights / num_contrasts
            self._weights = self._kept(self._weights, layer, steps, of_contrast)
        self._seen.add(layer)
        if on_layer is not None and gradients.contrast == num_contrasts - 1:
            on_layer(layer_map.shape[1])

    def _add_shares(
        self, contrast: int, steps: slice, image: Tensor, text: Tensor
    ) -> None:
        """Adds a layer's head scores, ``(batch, steps, heads)``."""
        if not self.options.rivals:
            return
        if self._excess is None or self._both is None:
            shape = (self.options.num_contrasts, *self.shape[:2])
            self._excess, self._both = image.new_zeros(shape), image.new_zeros(shape)
        self._excess[contrast, :, steps] += (image - text).relu().sum(-1)
        self._both[contrast, :, steps] += (image + text).sum(-1)

    def _add_rivals(self, gradients: LayerGradients, steps: slice) -> None:
        """Notes what the steps were contrasted with, the same for every layer."""
        if not self.options.rivals or gradients.contrast_ids is None:
            return
        if self._rivals is None:
            shape = (*self.shape[:2], self.options.rivals)
            self._rivals = gradients.contrast_ids.new_zeros(shape)
        ids = gradients.contrast_ids.to(self._rivals.device)
        self._rivals[:, steps, gradients.contrast] = ids

    def result(self, target_logits: TargetLogits) -> StepAttributions:
        """The attributions of all layers together."""
        assert self._sum is not None
        assert self._best_image is not None and self._best_text is not None
        # Results keep the user's order of layers. Layers without attention
        # (convolution, linear attention) have nothing to explain.
        places = [
            place
            for place, index in enumerate(self.layer_indices)
            if index in self._seen
        ]

        def of_seen(kept: Tensor | None) -> Tensor | None:
            if kept is None or len(places) == kept.shape[2]:
                return kept
            return kept[:, :, places]

        return StepAttributions(
            token_attr=self._sum.float(),
            token_weights=self._token_weights().float(),
            head_weights=of_seen(self._weights),
            layer_attr=of_seen(self._maps),
            token_log_probs=target_logits.log_probs.float(),
            layer_indices=[self.layer_indices[place] for place in places],
            rival_ids=self._rivals,
        )

    def _token_weights(self) -> Tensor:
        if self._excess is not None and self._both is not None:
            return scoring.image_share(self._excess, self._both).mean(0)
        assert self._best_image is not None and self._best_text is not None
        return scoring.token_weights(
            self._best_image[..., None, None], self._best_text[..., None, None]
        )

    def _places(self, steps: slice) -> slice:
        """Where some steps of the answer are among those explained."""
        if steps == slice(None):
            return steps
        return slice(steps.start - self.first_step, steps.stop - self.first_step)

    def _kept(
        self, kept: Tensor | None, layer: int, steps: slice, values: Tensor
    ) -> Tensor:
        """Puts a layer's values ``(batch, steps, n)`` among those of all layers.

        Layers may differ in their number of heads: zeros follow those of the others.
        """
        batch, _, size = values.shape
        if kept is None:
            shape = (batch, self.num_steps, len(self.layer_indices), size)
            kept = values.new_zeros(shape, dtype=torch.float32)
        elif kept.shape[3] < size:
            kept = nn.functional.pad(kept, (0, size - kept.shape[3]))
        place = self.layer_indices.index(layer)
        # The contrasts of a layer come one after the other.
        kept[:, steps, place, :size] += values.to(kept.device, torch.float32)
        return kept
