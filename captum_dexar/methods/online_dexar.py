"""DEX-AR while a model generates."""

from collections.abc import Iterator
from contextlib import contextmanager

from captum_dexar.attention_gradients import OnlineGradients
from captum_dexar.decoding.step_attributions import StepAttributions
from captum_dexar.inputs import Prompt
from captum_dexar.methods.answer_scores import AnswerScores
from captum_dexar.methods.options import DexAROptions
from captum_dexar.model.memory import recorded_bytes
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor


class OnlineDexAR:
    """Explains tokens from the passes that predict them, while the model generates.

    Args:
        prompt (Prompt): what the model answers
        gradients (OnlineGradients): watches its passes
        layer_indices (list of int): the explained layers, in the user's order
        options (DexAROptions): as the user has them
    """

    def __init__(
        self,
        prompt: Prompt,
        gradients: OnlineGradients,
        layer_indices: list[int],
        options: DexAROptions,
    ) -> None:
        self.prompt = prompt
        self.gradients = gradients
        self.layer_indices = layer_indices
        self.options = options
        self.max_bytes = recorded_bytes(prompt.model, prompt.image_keys.device)
        self._bytes_of_a_step = 0

    @property
    def num_rivals(self) -> int:
        """See :class:`OnlineAttribution`."""
        return self.options.rivals

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See :class:`OnlineAttribution`."""
        with self.gradients.watching():
            yield

    def stop(self) -> None:
        """See :class:`OnlineAttribution`."""
        self.gradients.stop()

    def is_due(self, num_waiting: int) -> bool:
        """See :class:`OnlineAttribution`."""
        max_tokens = self.options.max_tokens_per_pass
        if max_tokens is not None:
            return num_waiting >= max_tokens
        if not self._bytes_of_a_step:
            self._bytes_of_a_step = self.gradients.num_bytes() // num_waiting
        return (num_waiting + 1) * self._bytes_of_a_step > self.max_bytes

    def explain(
        self, tokens: Tensor, target_logits: TargetLogits, first_step: int
    ) -> StepAttributions:
        """See :class:`OnlineAttribution`."""
        num_steps = tokens.shape[1]
        steps = slice(first_step, first_step + num_steps)
        scores = AnswerScores(
            self.prompt.image_keys, steps, self.layer_indices, self.options
        )
        contrasts = target_logits.rival_ids
        if contrasts is None:
            contrast = self.prompt.contrast_ids(first_step, num_steps)
            contrasts = None if contrast is None else contrast[..., None]
        self.gradients.explain(
            tokens,
            target_logits,
            first_step,
            scores.add,
            None if contrasts is None else contrasts.movedim(-1, 0),
        )
        return scores.result(target_logits)
