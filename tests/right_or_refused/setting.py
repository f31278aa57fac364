"""A tiny model and a prompt, and what the model answers without the package."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from tests.helpers.family_case import FamilyCase, left_padded_batch
from tests.helpers.independent import exact, independent, Reference
from tests.helpers.tiny_models import IMAGE_TOKEN
from tests.helpers.untouched import state_of
from tests.right_or_refused.wrappers import Wrapper
from torch import nn, Tensor

NUM_TOKENS = 3
SEED = 5
# Numbers of text tokens before the image, of three prompts of a list.
EQUAL, UNEQUAL = (3, 3, 3), (3, 4, 2)


@dataclass(eq=False)
class Setting:
    """A family's tiny model under a wrapper, with prompts.

    Attributes:
        case: the family
        wrapper: what was done to the model
        dtype: of the model; float64 where rounding is not to be looked at
        model: the one to be explained
        pristine: a copy of it, which the package never sees
    """

    case: FamilyCase
    wrapper: Wrapper
    dtype: torch.dtype = torch.float32
    model: nn.Module = field(init=False)
    pristine: Any = field(init=False)

    def __post_init__(self) -> None:
        model = self.case.model(0, self.case.implementations[0])
        self.model = self.wrapper.apply(model).to(self.dtype).eval()
        # A trained model never answers with an image's placeholder or indicators, which
        # mean something else in a pass over the whole prefix.
        changed: Any = self.model
        indicators = getattr(changed.config, "visual_indicator_token_ids", [])
        changed.generation_config.suppress_tokens = [IMAGE_TOKEN, *indicators]
        self.pristine = copy.deepcopy(self.model)
        self._prompts: dict[tuple[int, int], dict[str, Any]] = {}
        self._references: dict[tuple[Any, ...], Reference] = {}
        self.states: dict[int, tuple[Any, dict[str, Any]]] = {}
        # Some hooks of transformers are only installed by the first pass.
        for one in (self.model, self.pristine):
            with torch.no_grad():
                one(**self.prompt())

    def prompt(self, seed: int = 0, before: int = EQUAL[0]) -> dict[str, Any]:
        """The model's inputs for one prompt."""
        if (seed, before) not in self._prompts:
            self._prompts[seed, before] = {
                name: value.to(self.dtype) if value.is_floating_point() else value
                for name, value in self.case.inputs(seed, before).items()
            }
        return self._prompts[seed, before]

    def prompts(self, before: tuple[int, ...]) -> list[dict[str, Any]]:
        """Several prompts with different texts and images."""
        return [self.prompt(seed, length) for seed, length in enumerate(before)]

    @cached_property
    def exact(self) -> nn.Module:
        """What the right explanations are computed with."""
        return exact(self.pristine)

    @cached_property
    def greedy(self) -> list[int]:
        """What the model answers to the first prompt."""
        made = self.generated(
            self.pristine,
            self.prompt(),
            {"max_new_tokens": NUM_TOKENS, "do_sample": False, "eos_token_id": None},
        )
        tokens: list[int] = made[0].tolist()
        return tokens

    def generated(
        self, model: Any, inputs: Mapping[str, Any], arguments: Mapping[str, Any]
    ) -> Tensor:
        """The answers of a plain ``generate``, ``(rows, tokens)``."""
        with torch.no_grad():
            made = model.generate(**inputs, **arguments)
        sequences: Tensor = made if isinstance(made, Tensor) else made.sequences
        prompt = inputs["input_ids"]
        if model.config.is_encoder_decoder:
            # Where nothing is given, a start token.
            given = {**inputs, **arguments}
            prompt = given.get("decoder_input_ids", prompt[:, :1])
        return sequences[:, prompt.shape[1] :]

    def batch(self, prompts: list[dict[str, Any]]) -> dict[str, Any]:
        """The prompts in one batch, padded on the left."""
        return left_padded_batch(self.pristine, prompts)

    def reference(
        self,
        seed: int,
        before: int,
        answer: Tensor,
        changed: Mapping[str, Any] | None = None,
    ) -> Reference:
        """The right explanation of an answer, computed once.

        Args:
            seed, before: as in :meth:`prompt`
            answer: the ids, ``(steps,)``
            changed: inputs of the model that are not those of the prompt
        """
        prompt = self.prompt(seed, before)
        if changed:
            return independent(self.exact, {**prompt, **changed}, answer)
        key = (seed, before, *answer.tolist())
        if key not in self._references:
            self._references[key] = independent(self.exact, prompt, answer)
        return self._references[key]

    def watch(self, model: nn.Module) -> None:
        """Remembers a model's state, for :meth:`changes`."""
        if id(model) not in self.states:
            self.states[id(model)] = (model, state_of(model))

    def changes(self, model: nn.Module) -> frozenset[str]:
        """What differs from the state that was last remembered."""
        before, now = self.states[id(model)][1], state_of(model)
        self.states[id(model)] = (model, now)
        names = before.keys() | now.keys()
        return frozenset(name for name in names if before.get(name) != now.get(name))
