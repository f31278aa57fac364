"""Captum's gradient methods on pixels, such as Integrated Gradients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from captum.attr import (
    Attribution,
    DeepLift,
    InputXGradient,
    IntegratedGradients,
    Saliency,
)
from captum_dexar.captum_methods.activations import check_gradients, check_modules
from captum_dexar.captum_methods.request import (
    as_one_example,
    clear_assertions,
    inner_method,
    lacks_gradient,
    same_randomness,
    StepRequest,
    TeacherForced,
    with_forward,
)
from captum_dexar.decoding import StepAttributions
from captum_dexar.families import adapter_for_config
from torch import nn, Tensor

# These evaluate gradients at the same points for every step, through
# ``gradient_func``, so one forward pass can serve all steps.
_SHARE_PASSES = (IntegratedGradients, InputXGradient, Saliency)
# Default number of path points that Integrated Gradients evaluates per pass.
_POINTS_AT_A_TIME = 5
# Memory limit for gradients that are kept for later steps.
_REMEMBERED_BYTES = 2**30


def check_method(method: Attribution, model: nn.Module) -> None:
    """Raises NotImplementedError if the model lacks what the method hooks."""
    family = adapter_for_config(model.config).name
    check_modules(inner_method(method), model, family)


def extra_arguments(method: Attribution) -> tuple[str, ...]:
    """Arguments that a method has in addition to Captum's."""
    return ("steps_per_batch",) if isinstance(method, _SHARE_PASSES) else ()


def run(request: StepRequest) -> StepAttributions:
    """Explains every step; sums over the pixels of each image token."""
    forward = TeacherForced(request.steps)
    check_gradients(
        inner_method(request.method),
        request.prompt.model,
        lambda pixels: forward.every_step(pixels).sum(),
        forward.pixels,
        forward.adapter.name,
    )
    method = with_forward(request.method, forward)
    arguments = as_one_example(request.arguments, forward.pixels)
    if isinstance(inner_method(method), IntegratedGradients):
        samples = arguments.get("nt_samples_batch_size") or arguments.get("nt_samples")
        at_a_time = max(_POINTS_AT_A_TIME, samples or 0)
        arguments.setdefault("internal_batch_size", at_a_time)
    steps_per_batch = arguments.pop("steps_per_batch", None)
    if steps_per_batch is None:
        steps_per_batch = _steps_that_fit(forward.pixels, arguments)
    if isinstance(method, _SHARE_PASSES):
        method.gradient_func = _SharedGradients(forward, steps_per_batch)
    token_of_pixel = request.prompt.adapter.token_of_pixel_input(
        request.prompt.inputs, request.prompt.layout, request.prompt.config
    ).to(forward.pixels.device)
    num_tokens = request.prompt.layout.num_tokens
    scores, deltas = [], []
    for step in same_randomness(request.steps.num_steps, forward.pixels.device):
        forward.step = step
        # Captum enables gradients on its input; don't change the user's tensor.
        pixels = forward.pixels.detach().clone().requires_grad_()
        try:
            attribution, delta = _attributed(method, pixels, arguments)
        except RuntimeError as error:
            if not lacks_gradient(error):
                raise
            raise TypeError(
                f"No gradient leads from the answer of a model of the family "
                f"{forward.adapter.name} to its pixels, so {method.get_name()} can't "
                "explain it. Use LayerDexAR, a perturbation method or a layer method."
            ) from error
        scores.append(summed(attribution[0], token_of_pixel, num_tokens))
        deltas.append(delta)
        request.on_step()
    return request.attributions(torch.stack(scores), forward, deltas)


@contextmanager
def _no_leftovers(method: Any) -> Iterator[None]:
    """Removes attributes that DeepLift leaves on modules without a gradient."""
    modules = list(method.model.modules()) if isinstance(method, DeepLift) else []
    noted = [(m, name) for m in modules for name in ("input", "output")]
    new = [(module, name) for module, name in noted if name not in vars(module)]
    try:
        yield
    finally:
        for module, name in new:
            vars(module).pop(name, None)


@contextmanager
def _clear_errors(method: Any) -> Iterator[None]:
    """Replaces Captum's errors about modules that DeepLift can't hook."""
    try:
        with _no_leftovers(method), clear_assertions(method):
            yield
    except (ValueError, RuntimeError, AttributeError) as error:
        of_arguments = isinstance(error, ValueError) and "Module" not in str(error)
        if not isinstance(method, DeepLift) or lacks_gradient(error) or of_arguments:
            raise
        raise NotImplementedError(
            f"{type(method).__name__} can't explain this model: {error} It replaces "
            "the gradients of activation modules, and each must run exactly once on "
            "the example and its baseline together. Use IntegratedGradients."
        ) from error


def _attributed(
    method: Any, pixels: Tensor, arguments: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    with _clear_errors(inner_method(method)):
        attribution = method.attribute(pixels, **arguments)
    if isinstance(attribution, tuple):
        return attribution[0].detach(), attribution[1].detach().mean()
    return attribution.detach(), None


def summed(attribution: Tensor, token_of_pixel: Tensor, num_tokens: int) -> Tensor:
    """Sums the attributions of each image token's pixels, ``(image tokens,)``.

    Args:
        attribution (Tensor): of the shape of the pixels
        token_of_pixel (Tensor): image token of each element, broadcastable to that; -1
            where none covers it
        num_tokens (int): image tokens of the prompt
    """
    index = token_of_pixel.expand(attribution.shape).flatten()
    total = torch.zeros(num_tokens + 1, dtype=torch.float64)
    index = index.where(index >= 0, num_tokens).cpu()
    total.index_add_(0, index, attribution.detach().cpu().double().flatten())
    return total[:-1].float()


class _SharedGradients:
    """A ``gradient_func`` that caches the gradients of several steps.

    Args:
        forward (TeacherForced): its ``step`` is the step being explained
        steps_per_batch (int): number of steps whose gradients are computed from one
            forward pass and kept until they are needed
    """

    def __init__(self, forward: TeacherForced, steps_per_batch: int) -> None:
        self.forward = forward
        self.steps_per_batch = steps_per_batch
        self.first = 0
        self.step = 0
        self.call = 0
        self.points: list[tuple[Tensor, list[Tensor]]] = []

    def __call__(
        self,
        forward_fn: Callable[..., Any],
        inputs: tuple[Tensor, ...],
        target_ind: Any = None,
        additional_forward_args: Any = None,
        **arguments: Any,
    ) -> tuple[Tensor, ...]:
        """See Captum's ``compute_gradients``."""
        if self.forward.step != self.step:
            self.step, self.call = self.forward.step, 0
            if self.step >= self.first + self.steps_per_batch:
                self.first, self.points = self.step, []
        (point,) = inputs
        if self.call == len(self.points):
            self.points.append((point.detach(), self._batch_of_steps(point)))
        known, gradients = self.points[self.call]
        if not torch.equal(known, point.detach()):
            gradients = self._batch_of_steps(point)
        self.call += 1
        return (gradients[self.step - self.first],)

    def _batch_of_steps(self, point: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            leaf = point.detach().requires_grad_()
            scores = self.forward.every_step(leaf).sum(0)
            batch = scores[self.first : self.first + self.steps_per_batch]
            return [
                torch.autograd.grad(score, leaf, retain_graph=True)[0]
                for score in batch
            ]


def _steps_that_fit(pixels: Tensor, arguments: dict[str, Any]) -> int:
    """Number of steps whose gradients at all points of the path fit into memory."""
    points = int(arguments.get("n_steps", 50))
    return max(1, _REMEMBERED_BYTES // (pixels.nbytes * points))
