"""The candidates, each as what takes the place of ``G`` in equations (4) to (6).

They are those of the protocol in ``captum_dexar/evaluation/README.md``, in its order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tests.extension_study.eager_readings import Readings
from torch import Tensor


@dataclass(frozen=True)
class Candidate:
    """One candidate.

    Attributes:
        name (str): its name in tables
        read (Callable): what takes the place of the gradients, one or several
            ``(layers, steps, heads, keys)``; of several, maps are summed and weights
            averaged
        ignores_template (bool): whether ``S_text`` leaves out the first token and the
            template. Default: False
    """

    name: str
    read: Callable[[Readings], Sequence[Tensor]]
    ignores_template: bool = False


@dataclass(frozen=True, eq=False)
class Scores:
    """What a candidate says of each token of an answer.

    Attributes:
        maps (Tensor): equation (5), ``(steps, image tokens)``
        weights (Tensor): equation (6), ``(steps,)``
        shares (Tensor): the share of head scores by which the image exceeds the text,
            ``(steps,)``
    """

    maps: Tensor
    weights: Tensor
    shares: Tensor


def _read(power: float) -> Callable[[Readings], Sequence[Tensor]]:
    return lambda readings: [readings.attention.pow(power) * readings.gradients]


def _known(readings: Readings) -> Sequence[Tensor]:
    """Each layer's part, times the lens' probability of the token there."""
    (read,) = _read(0.75)(readings)
    return [read * readings.probabilities[..., None, None]]


def _known_to_scale(readings: Readings) -> Sequence[Tensor]:
    """The same of layers that are divided by their largest value."""
    (read,) = _read(0.75)(readings)
    positive = read.relu()
    largest = positive.amax((-2, -1), keepdim=True)
    scaled = positive / largest.where(largest > 0, torch.ones_like(largest))
    return [scaled * readings.probabilities[..., None, None]]


def _last_half(readings: Readings) -> Sequence[Tensor]:
    (read,) = _read(0.75)(readings)
    return [read[len(read) // 2 :]]


def _contrasted(readings: Readings) -> Sequence[Tensor]:
    return [readings.attention.pow(0.75) * readings.contrasted]


def _against(count: int, power: float) -> Callable[[Readings], Sequence[Tensor]]:
    """The readings against each of the model's own next choices."""
    return lambda readings: [
        readings.attention.pow(power) * one for one in readings.against[:count]
    ]


def _with_final(readings: Readings) -> Sequence[Tensor]:
    return [readings.attention * one for one in (readings.contrasted, readings.final)]


CANDIDATES = {
    1: Candidate("1: p = 0.5", _read(0.5)),
    2: Candidate("2: p = 0.75", _read(0.75)),
    3: Candidate("3: p = 1", _read(1.0)),
    4: Candidate("4: p = 0.75, lens' probability", _known),
    5: Candidate("5: p = 0.75, last half", _last_half),
    6: Candidate("6: p = 0.75, text without template", _read(0.75), True),
    7: Candidate("7: p = 0.75, lens' probability, scaled layers", _known_to_scale),
    8: Candidate("8: p = 0.75, against the runner-up", _contrasted),
    9: Candidate("9: p = 0.75, against 2 rivals", _against(2, 0.75)),
    10: Candidate("10: p = 0.75, against 4 rivals", _against(4, 0.75)),
    11: Candidate("11: p = 1, against 4 rivals", _against(4, 1.0)),
    12: Candidate("12: p = 1, 8 and the final logits' gradient", _with_final),
}
PAPER = Candidate("DEX-AR", _read(0.0))
FIRST_CHOICE = 10


def scored(candidate: Candidate, readings: Readings) -> Scores:
    """Equations (4) to (6) with a candidate in the place of the gradients."""
    is_text = ~readings.is_image
    if candidate.ignores_template:
        is_text = is_text & ~readings.is_template
    maps, weights, shares = [], [], []
    for read in candidate.read(readings):
        of_image = read[..., readings.is_image].relu()
        image, text = of_image.amax(-1), read[..., is_text].relu().amax(-1)
        excess = (image - text).relu()
        both = (image + text).sum((0, 2))
        maps.append(torch.einsum("lth,lthj->tj", excess, of_image))
        weights.append((image.amax((0, 2)) - text.amax((0, 2))).relu())
        shares.append(excess.sum((0, 2)) / both.where(both > 0, torch.ones_like(both)))
    return Scores(
        torch.stack(maps).sum(0),
        torch.stack(weights).mean(0),
        torch.stack(shares).mean(0),
    )
