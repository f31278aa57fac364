"""Image tokens that are learned queries, each of which reads the whole image."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, ClassVar, Literal

import torch
from captum_dexar.families.base import check_choice, FamilyAdapter
from captum_dexar.families.shared.rollout import rolled
from captum_dexar.maps.layout import ImageLayout
from torch import nn, Tensor

APPROXIMATION = (
    "approximate: attributions of the image tokens, which are queries, are spread over "
    "the patches in proportion to {reader}'s attention."
)


def found_places(of_queries: str) -> str:
    """What tests with painted cells have found, for the table of families."""
    return (
        'approximate, with `places="resampler"`: the cell that changes a query most '
        f"has its largest share for {of_queries}"
    )


@dataclass(frozen=True)
class QueryAttention:
    """An attention module through which queries read patches or each other.

    Attributes:
        module (nn.Module): the module
        keys (str): what is attended to: ``"patches"``; ``"queries"``, which a text may
            follow; ``"both"``, the patches first
        at_softmax (bool): whether the module takes the softmax itself, without
            transformers' attention interface. Default: False
    """

    module: nn.Module
    keys: Literal["patches", "queries", "both"]
    at_softmax: bool = False


class QueryAdapter(FamilyAdapter):
    """Attributions of queries are spread over the patches that they attend to, if the
    user asks for it. Otherwise the queries have no places, and are refused.

    ``image_tokens()`` describes the tokens of the vision tower, which queries read.

    Args:
        follows_resampler (bool, optional): see :class:`FamilyAdapter`. Default: False

    Attributes:
        reader (str): what makes the queries read the image
    """

    reader: ClassVar[str] = "the resampler"

    def __init__(self, follows_resampler: bool = False) -> None:
        self.follows_resampler = follows_resampler

    def placed_by(self, places: str | None, are_given: bool = False) -> FamilyAdapter:
        """See :meth:`FamilyAdapter.placed_by`."""
        if places is None:
            if not are_given:
                raise self._refusal()
            return self
        check_choice(places, are_given)
        return type(self)(follows_resampler=True)

    @abstractmethod
    def attentions(self, model: Any) -> list[QueryAttention]:
        """The attention modules of the resampler, in the order in which they run."""

    @abstractmethod
    def num_vision_tokens(self, inputs: Mapping[str, Any], config: Any) -> int:
        """How many tokens of the vision tower the queries of a picture read."""

    def num_pictures(self, inputs: Mapping[str, Any]) -> int:
        """How many pictures of one prompt are read, each by queries of its own."""
        return int(inputs[self.pixel_input].shape[0])

    def num_all_vision_tokens(self, inputs: Mapping[str, Any], config: Any) -> int:
        """How many tokens of the vision tower one prompt has."""
        return self.num_pictures(inputs) * self.num_vision_tokens(inputs, config)

    def num_runs(self, inputs: Mapping[str, Any]) -> int:
        """How often the resampler runs for one prompt."""
        return 1

    def shares(
        self, read: list[tuple[str, Tensor]], inputs: Mapping[str, Any], config: Any
    ) -> Tensor:
        """What part of each image token belongs to each token of the vision tower.

        Args:
            read (list of tuple): as in :func:`rolled`, of all runs
            inputs (Mapping): the model's inputs for one prompt
            config (PreTrainedConfig): the model's configuration

        Returns:
            *Tensor* ``(image tokens, vision tokens)``; rows sum to 1
        """
        by_picture = rolled(read, self.num_vision_tokens(inputs, config))
        shares: Tensor = torch.block_diag(*by_picture)
        return shares

    def encode(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """Runs the part of the model that makes image tokens, and no more.

        Returns:
            What ``get_image_features`` returns
        """
        taken = signature(model.get_image_features).parameters
        known = {name: value for name, value in inputs.items() if name in taken}
        known.pop("attention_mask", None)
        return model.get_image_features(**known)

    def layout(
        self,
        inputs: Mapping[str, Any],
        num_tokens: int,
        *,
        config: Any = None,
        **known: Any,
    ) -> ImageLayout:
        """The places of the vision tower's tokens.

        Raises:
            TypeError: Those of the queries are asked for, which have none.
            ValueError: The model is not given.
        """
        if not self.follows_resampler:
            raise self._refusal()
        if config is None:
            raise ValueError(
                'places="resampler" follows the attention of the model: pass it, '
                "ImagePromptInput(image, prompt, processor, model)."
            )
        count = self.num_all_vision_tokens(inputs, config)
        layout = super().layout(inputs, count, config=config, **known)
        return replace(layout, approximation=APPROXIMATION.format(reader=self.reader))

    def _refusal(self) -> TypeError:
        return TypeError(
            f"The image tokens of {self.name} have no places on the image: they are "
            "learned queries, each of which reads the whole of it through "
            f'{self.reader}. Pass places="resampler" to ImagePromptInput (or to '
            "attribute() or stream()) to spread their attributions over the patches in "
            f"proportion to {self.reader}'s attention, which is an approximation; or "
            "grid= or boxes=, if you know places for them."
        )
