"""The ways of running the method."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar import VLMAttribution, VLMAttributionResult
from tests.right_or_refused.setting import EQUAL, UNEQUAL
from torch import Tensor

Prompts = list[dict[str, Any]]
Arguments = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Explained:
    """The explanation of an answer; its results are joined if it was streamed.

    Attributes:
        ids (Tensor): the explained tokens, ``(steps,)``
        placed (Tensor): the image tokens that are columns of the maps
        token_attr, token_weights, head_weights, layer_attr, token_log_probs: as in
            :class:`tests.helpers.independent.Reference`
    """

    ids: Tensor
    placed: Tensor
    token_attr: Tensor
    token_weights: Tensor
    head_weights: Tensor
    layer_attr: Tensor
    token_log_probs: Tensor

    @classmethod
    def of(cls, *results: VLMAttributionResult) -> "Explained":
        """Joins the results of successive tokens."""

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(result, name) for result in results])

        return cls(
            ids=joined("target_ids"),
            placed=results[0].layout.placed,
            token_attr=joined("token_attr"),
            token_weights=joined("token_weights"),
            head_weights=joined("head_weights"),
            layer_attr=joined("layer_attr"),
            token_log_probs=joined("token_log_probs"),
        )


@dataclass(frozen=True, eq=False)
class Way:
    """A way of running the method.

    Attributes:
        name: in the table
        run: explains some prompts
        before: numbers of text tokens before the image, one for each prompt
        engine: of the method
        is_given: whether the answer is given rather than generated
    """

    name: str
    run: Callable[[VLMAttribution, Prompts, Arguments], list[Explained]]
    before: tuple[int, ...] = EQUAL[:1]
    engine: str = "closed_form"
    is_given: bool = False

    def __str__(self) -> str:
        return self.name


def _attributed(
    method: VLMAttribution, prompts: Prompts, arguments: Arguments
) -> list[Explained]:
    return [Explained.of(method.attribute(prompts[0], gen_args=arguments))]


def _listed(
    method: VLMAttribution, prompts: Prompts, arguments: Arguments
) -> list[Explained]:
    results = method.attribute(prompts, gen_args=arguments)
    return [Explained.of(result) for result in results]


def _streamed(
    method: VLMAttribution, prompts: Prompts, arguments: Arguments
) -> list[Explained]:
    return [Explained.of(*method.stream(prompts[0], gen_args=arguments))]


def _given(
    method: VLMAttribution, prompts: Prompts, arguments: Arguments
) -> list[Explained]:
    return [Explained.of(method.attribute(prompts[0], arguments["target"]))]


ATTRIBUTE = Way("attribute", _attributed)
LIST = Way("list", _listed, EQUAL)
PADDED_LIST = Way("list of different lengths", _listed, UNEQUAL)
STREAM = Way("stream", _streamed)
GIVEN = Way("given answer", _given, is_given=True)
AUTOGRAD = Way("attribute, autograd", _attributed, engine="autograd")
AUTOGRAD_STREAM = Way("stream, autograd", _streamed, engine="autograd")
WAYS = (ATTRIBUTE, LIST, PADDED_LIST, STREAM, GIVEN, AUTOGRAD, AUTOGRAD_STREAM)
