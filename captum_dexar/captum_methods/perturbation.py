"""Captum's perturbation methods, which paint over parts of the image."""

from importlib import import_module
from typing import Any

import torch
from captum._utils.models.linear_model import SkLearnLinearModel
from captum.attr import Attribution, Occlusion, ShapleyValues
from captum_dexar.captum_methods.features import image_features, ImageFeatures
from captum_dexar.captum_methods.request import (
    clear_assertions,
    contrasted,
    same_randomness,
    StepRequest,
    TeacherForced,
    with_forward,
)
from captum_dexar.captum_methods.supported import MOST_IN_EVERY_ORDER
from captum_dexar.decoding import DecodingSteps, StepAttributions
from captum_dexar.inputs import prepared, Prompt
from torch import nn, Tensor

# Default side of the window, in features.
_OCCLUSION_WINDOW = 3


def check_method(method: Any, model: nn.Module) -> None:
    """Raises ImportError if the method needs scikit-learn and it is missing."""
    fits = getattr(method, "interpretable_model", None)
    if not isinstance(fits, SkLearnLinearModel):
        return
    try:
        import_module("sklearn.linear_model")
    except ImportError as error:
        raise ImportError(
            f"{type(method).__name__} fits a linear model with scikit-learn, which is "
            "not installed: pip install 'captum-dexar[lime]'. Or pass an "
            "interpretable_model of another kind."
        ) from error


def extra_arguments(method: Attribution) -> tuple[str, ...]:
    """Arguments that a method has in addition to Captum's."""
    return ("patches",)


def run(request: StepRequest) -> StepAttributions:
    """Explains every step by the drop of its token's log-probability.

    All steps get the same perturbations (random ones too), so each perturbed image is
    encoded and the whole answer scored only once.
    """
    arguments = dict(request.arguments)
    patches = arguments.pop("patches", None)
    is_occlusion = isinstance(request.method, Occlusion)
    features = image_features(request, patches, as_grid=is_occlusion)
    if isinstance(request.method, ShapleyValues):
        _check_count(features.count)
    scores = _PerturbedScores(request, features)
    method = with_forward(request.method, scores)
    present = torch.ones(1, features.count)
    if is_occlusion:
        assert features.grid is not None
        present = present.view(1, *features.grid)
        window = tuple(min(_OCCLUSION_WINDOW, side) for side in features.grid)
        arguments.setdefault("sliding_window_shapes", window)
    attributions = []
    for step in same_randomness(request.steps.num_steps, present.device):
        scores.step = step
        with clear_assertions(method):
            attribution = method.attribute(present, **arguments)
        attributions.append(attribution.detach().float().view(features.count))
        request.on_step()
    token_attr = torch.stack(attributions)
    if features.to_tokens is not None:
        token_attr = token_attr @ features.to_tokens
    forward = TeacherForced(request.steps)
    return request.attributions(token_attr, forward, layout=features.layout)


def _check_count(count: int) -> None:
    """Raises ValueError if Shapley values of so many features take forever."""
    if count > MOST_IN_EVERY_ORDER:
        raise ValueError(
            f"ShapleyValues adds {count} parts of the image in every order, which are "
            f"{count}! orders. Use ShapleyValueSampling, or no more than "
            f"{MOST_IN_EVERY_ORDER} parts: patches=(rows, columns), or the segments of "
            "an ImageMaskInput."
        )


class _PerturbedScores:
    """Log-probability of the token of ``step``, given which features are present."""

    def __init__(self, request: StepRequest, features: ImageFeatures) -> None:
        self.request = request
        self.features = features
        self.step = 0
        self._known: dict[bytes, Tensor] = {}

    def __call__(self, present: Tensor, *unused: Any) -> Tensor:
        """``(examples, features)`` to ``(examples,)``."""
        rows = present.detach().reshape(present.shape[0], -1)
        return torch.stack([self._answer(row[None])[self.step] for row in rows])

    def _answer(self, present: Tensor) -> Tensor:
        key = (present != 0).cpu().numpy().tobytes()
        if key not in self._known:
            self._known[key] = self._scored(self.features.make_inputs(present))
        return self._known[key]

    def _scored(self, made: Any) -> Tensor:
        steps = self.request.steps
        model = steps.prompt.model
        inputs = {
            name: prepared(value, model)
            for name, value in made.items()
            if value is not None and name != "labels"
        }
        perturbed = DecodingSteps(
            Prompt(model, inputs), steps.answer_ids, first_step=steps.first_step
        )
        with torch.no_grad():
            log_probs = perturbed.full_pass().logits().float().log_softmax(-1)
        scores = contrasted(log_probs, steps.target_ids, steps.contrast_ids)
        return scores[0].cpu()
