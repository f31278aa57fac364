"""What all kinds of Captum methods share: the request and the function explained."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution, NoiseTunnel
from captum_dexar.decoding import DecodingSteps, StepAttributions
from captum_dexar.inputs import Prompt
from captum_dexar.inputs.model_inputs import tiled
from captum_dexar.maps.layout import ImageLayout
from torch import nn, Tensor


@dataclass(frozen=True, eq=False)
class StepRequest:
    """An answer to be explained by a Captum method.

    Attributes:
        method (Attribution): the user's method
        steps (DecodingSteps): the answer's steps, for one prompt
        arguments (Mapping): the method's own arguments
        on_step (Callable): called after each step, for progress
    """

    method: Attribution
    steps: DecodingSteps
    arguments: Mapping[str, Any]
    on_step: Callable[[], object]

    @property
    def prompt(self) -> Prompt:
        """The prompt of the answer."""
        return self.steps.prompt

    def attributions(
        self,
        token_attr: Tensor,
        forward: "TeacherForced",
        deltas: Sequence[Tensor | None] = (),
        layout: ImageLayout | None = None,
    ) -> StepAttributions:
        """Collects signed attributions, ``(steps, image tokens)``, and each step's
        convergence delta, if there is one.

        With a layout, the columns are its features instead of those of the prompt's.
        """
        known = [delta for delta in deltas if delta is not None]
        return StepAttributions(
            token_attr=token_attr.cpu()[None],
            token_log_probs=forward.log_probs().cpu()[None],
            convergence_delta=torch.stack(known).cpu()[None] if known else None,
            layout=self.prompt.layout if layout is None else layout,
        )


class TeacherForced(nn.Module):
    """Logits of all steps of an answer, as a function of the pixels.

    In a causal model the position that predicts a step's token does not depend on later
    ones, so one pass over prompt and answer serves every step.

    Args:
        steps (DecodingSteps): the answer

    Attributes:
        pixels (Tensor): the model's pixels with a leading axis for the example,
            ``(1, ...)``. So Captum does not mistake their own first axis (patches,
            tiles, images) for examples.
        step (int): the step whose scores ``forward`` returns
    """

    def __init__(self, steps: DecodingSteps) -> None:
        super().__init__()
        whole = steps.full_pass()
        self.model = steps.prompt.model
        self.query_positions = whole.query_positions
        self.target_ids = steps.target_ids
        self.contrast_ids = steps.contrast_ids
        self.adapter = steps.prompt.adapter
        inputs = dict(whole.inputs)
        self.pixels: Tensor = inputs.pop(self.adapter.pixel_input)[None]
        self.inputs = inputs
        self._new_cache = whole.new_cache
        self.step = 0

    def forward(self, pixels: Tensor) -> Tensor:
        """The step's logit (minus that of its contrast), ``(examples,)``."""
        return self.every_step(pixels)[:, self.step]

    def every_step(self, pixels: Tensor) -> Tensor:
        """All steps' logits (minus those of the contrast), ``(examples, steps)``."""
        logits = self.logits(pixels)
        return contrasted(logits, self.target_ids, self.contrast_ids)

    def log_probs(self) -> Tensor:
        """The model's log-probability of each step's token, ``(steps,)``."""
        with torch.no_grad():
            logits = self.logits(self.pixels).float()
        return contrasted(logits.log_softmax(-1), self.target_ids, None)[0]

    def logits(self, pixels: Tensor) -> Tensor:
        """``(examples, steps, vocabulary)``."""
        repeats = pixels.shape[0]
        inputs = {key: tiled(value, repeats) for key, value in self.inputs.items()}
        inputs[self.adapter.pixel_input] = self.adapter.visible(pixels.flatten(0, 1))
        inputs = self.adapter.joined(inputs, repeats)
        cache = self._new_cache()
        if cache is not None:
            inputs["past_key_values"] = cache
        logits: Tensor = self.model(**inputs).logits
        if logits.shape[1] != len(self.query_positions):
            logits = logits[:, self.query_positions.to(logits.device)]
        return logits


def contrasted(
    logits: Tensor, target_ids: Tensor, contrast_ids: Tensor | None
) -> Tensor:
    """The targets' entries minus those of their contrasts, ``(examples, steps)``.

    Args:
        logits (Tensor): logits or log-probabilities, ``(examples, steps, vocabulary)``
        target_ids (Tensor): ``(1, steps)``
        contrast_ids (Tensor or None): ``(1, steps)``, -1 for none
    """

    def of_ids(ids: Tensor) -> Tensor:
        index = ids.to(logits.device).expand(logits.shape[0], -1)[..., None]
        return logits.gather(-1, index)[..., 0]

    if contrast_ids is None:
        return of_ids(target_ids)
    is_contrasted = contrast_ids.to(logits.device) >= 0
    against = of_ids(contrast_ids.clamp(min=0))
    return of_ids(target_ids) - against.where(is_contrasted, 0.0)


def with_forward(method: Attribution, forward_func: Callable[..., Any]) -> Any:
    """A copy of the user's method that explains another function."""
    copied = copy.copy(method)
    for name, value in vars(method).items():
        if isinstance(value, Attribution):  # of a NoiseTunnel, of a layer method
            setattr(copied, name, with_forward(value, forward_func))
        elif isinstance(value, list) and name.endswith(("hooks", "handles")):
            setattr(copied, name, [])
    copied.forward_func = forward_func
    if hasattr(copied, "model"):
        copied.model = forward_func
    return copied


def inner_method(method: Any) -> Any:
    """The method that a NoiseTunnel is made around; others as they are."""
    return method.attribution_method if isinstance(method, NoiseTunnel) else method


@contextmanager
def clear_assertions(method: Any) -> Iterator[None]:
    """Raises ValueError where Captum asserts something about a method's arguments."""
    try:
        yield
    except AssertionError as error:
        message = shorten(str(error), 200) or "an assertion of Captum's failed."
        raise ValueError(
            f"{type(method).__name__} can't be run with these arguments: {message}"
        ) from error


def same_randomness(num_steps: int, device: torch.device) -> Iterator[int]:
    """Yields the steps, and resets the random state to the same value before each."""
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()
    is_cuda = device.type == "cuda"
    cuda_state = torch.cuda.get_rng_state(device) if is_cuda else None
    for step in range(num_steps):
        torch.random.set_rng_state(state)
        np.random.set_state(numpy_state)
        if cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state, device)
        yield step


def as_one_example(arguments: Mapping[str, Any], pixels: Tensor) -> dict[str, Any]:
    """Reshapes ``baselines`` to match ``TeacherForced.pixels``.

    A function that makes baselines gets pixels of the shape that the model takes.
    """
    made = dict(arguments)
    baselines = made.get("baselines")
    if isinstance(baselines, (tuple, list)) and len(baselines) == 1:
        baselines = baselines[0]
    if baselines is None:
        return made
    if isinstance(baselines, Tensor):
        made["baselines"] = _one_example_each(baselines, pixels)
    elif callable(baselines):
        make = baselines

        def made_of(given: Tensor) -> Any:
            return _one_example_each(make(given.flatten(0, 1)), pixels)

        made["baselines"] = made_of
    else:
        made["baselines"] = baselines
    return made


def _one_example_each(baselines: Any, pixels: Tensor) -> Any:
    """A tensor of baselines with a leading axis for examples; a single number."""
    if not isinstance(baselines, Tensor):
        return baselines
    if baselines.dim() == 0:
        return baselines.item()
    shape = pixels.shape[1:]
    if baselines.shape[1:] != shape[1:] or baselines.shape[0] % shape[0]:
        raise ValueError(
            f"baselines must have the shape of the model's pixels, {tuple(shape)}, or "
            f"be several of them along axis 0, got {tuple(baselines.shape)}."
        )
    return baselines.to(pixels).reshape(-1, *shape)


NO_GRADIENT = (
    "not have been used in the graph",
    "does not require grad",
    "does not have a grad_fn",
)


def lacks_gradient(error: Exception) -> bool:
    """Whether torch reports that no gradient flows to the input."""
    return any(message in str(error) for message in NO_GRADIENT)
