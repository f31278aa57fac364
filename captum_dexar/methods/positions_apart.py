"""Whether a model that a user has changed keeps the positions of a pass apart."""

import torch
from captum_dexar.decoding import DecodingSteps, StepAttributions
from captum_dexar.model.consistency import Inconsistent
from captum_dexar.model.precision import rounding_dtype


def check_positions_are_apart(
    steps: DecodingSteps, together: StepAttributions, change: str | None
) -> None:
    """Raises unless the first and the last token are as in passes of their own.

    Args:
        steps (DecodingSteps): the explained steps
        together (StepAttributions): from one pass over prompt and answer
        change (str or None): what a user has changed, in words; None for nothing

    Raises:
        Inconsistent: their log-probabilities differ.
    """
    if change is None:
        return
    for step in sorted({0, steps.num_steps - 1}):
        alone = steps.alone(step)
        log_probs = together.token_log_probs[:, step].double()
        error = (alone.log_probs[:, 0].double().to(log_probs.device) - log_probs).abs()
        largest = max(1.0, float(alone.largest))
        eps = torch.finfo(rounding_dtype(steps.prompt.model)).eps
        # Log-probabilities are float32 at most.
        eps = max(eps, torch.finfo(torch.float32).eps)
        if not float(error.max()) <= eps**0.7 * largest:
            raise Inconsistent(
                f"The model was changed ({change}), and the logits of a position now "
                "depend on which positions share its pass: the log-probability of "
                f"token {step} is off by {float(error.max()):.3g} from a pass of its "
                "own. Use "
                'LayerDexAR(..., engine="autograd"), which runs one pass per token, or '
                "let the model generate the answer."
            )
