"""The logits from which tokens were generated, compared with those explained."""

from collections.abc import Sequence

import torch
from captum_dexar.model.consistency import Inconsistent
from captum_dexar.model.precision import logit_tolerance, widened
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor


def raw_target_logits(
    answer: Tensor, logits: tuple[Tensor, ...], beam_indices: Tensor | None
) -> TargetLogits:
    """The model's own logits of generated tokens; NaN where they are not known.

    Args:
        answer (Tensor): the tokens, ``(prompts, steps)``
        logits (tuple of Tensor): of each step, ``(prompts x beams, vocabulary)``, as
            ``generate`` returns them with ``output_logits``
        beam_indices (Tensor or None): the row of each token's logits, ``(prompts,
            steps)``; -1 after an answer's end. None without beams
    """
    num_prompts, num_steps = answer.shape
    rows = torch.arange(num_prompts)[:, None].expand(num_prompts, num_steps)
    if beam_indices is not None:
        rows = beam_indices.cpu()
    chosen = torch.full(answer.shape, torch.nan)
    log_probs, largest = chosen.clone(), torch.zeros(())
    for step, scores in enumerate(logits[:num_steps]):
        known = (rows[:, step] >= 0).nonzero()[:, 0]
        scores = widened(scores[rows[known, step].to(scores.device)])
        tokens = answer[known.to(answer.device), step, None].to(scores.device)
        chosen[known, step] = scores.gather(1, tokens)[:, 0].cpu().float()
        log_prob = scores.log_softmax(-1).gather(1, tokens)
        log_probs[known, step] = log_prob[:, 0].cpu().float()
        if scores.numel():
            finite = scores.where(scores.isfinite(), 0.0)
            largest = torch.maximum(largest, finite.abs().max().cpu().float())
    return TargetLogits(chosen, log_probs, largest)


def check_log_probs(
    generated: TargetLogits,
    explained: Tensor,
    dtype: torch.dtype,
    lengths: list[int],
    settings: Sequence[str] = (),
) -> None:
    """Raises unless the explained passes give what the tokens were generated from.

    Args:
        generated (TargetLogits): the tokens' logits in generating
        explained (Tensor): the tokens' log-probabilities in the passes that explain
            them, ``(prompts, steps)``
        dtype (torch.dtype): the model's, for rounding
        lengths (list of int): the answers' lengths; what follows is padding
        settings (sequence of str, optional): names of the settings of generation, for
            the error. Default: none

    Raises:
        Inconsistent: they differ by more than rounding.
    """
    chosen, explained = generated.log_probs.cpu().float(), explained.cpu().float()
    is_answer = torch.arange(chosen.shape[1]) < torch.tensor(lengths)[:, None]
    is_known = is_answer & chosen.isfinite()
    error = (explained - chosen).abs().where(is_known, 0.0)
    # A log-probability is a difference of two rounded values, and generate itself works
    # in float32 on what a model in float64 gives.
    largest = float(generated.largest)
    allowed = 2 * max(logit_tolerance(one, largest) for one in (dtype, torch.float32))
    if not bool((error <= allowed).all()):
        prompt, step = divmod(int(error.nan_to_num(torch.inf).argmax()), error.shape[1])
        raise Inconsistent(
            f"Token {step} of answer {prompt} was generated with a log-probability of "
            f"{chosen[prompt, step]:.4g}, but the pass that explains it gives "
            f"{explained[prompt, step]:.4g}. The model does not give the same result "
            "for the same tokens: settings of generation that change its passes "
            f"({', '.join(settings) or 'none are known'}), or random numbers in the "
            "model, would be the reason."
        )
