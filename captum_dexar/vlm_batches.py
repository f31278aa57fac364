"""Several inputs, which share passes through the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TYPE_CHECKING

from captum_dexar.decoding import DecodingSteps
from captum_dexar.decoding.batching import batch_key, left_padded, right_padded
from captum_dexar.decoding.generation import answer_lengths, GeneratedAnswer
from captum_dexar.decoding.step_attributions import StepAttributions
from captum_dexar.families import FamilyAdapter
from captum_dexar.inputs.prompt import CheckedPrompt
from captum_dexar.result.factory import fields_of
from captum_dexar.result.result import VLMAttributionResult
from torch import nn, Tensor
from tqdm.auto import tqdm

BATCH_SIZE = 8
# Inputs that are kept as they were checked; those beyond are prepared once more.
MOST_PREPARED = 64


class BatchAttribution:
    """Explains lists of inputs for :class:`VLMAttribution`.

    Prompts with equally many image tokens are padded on the left and go through the
    model together. Methods of Captum, and families whose prompts can't be padded,
    explain one input after the other.
    """

    model: nn.Module
    adapter: FamilyAdapter

    if TYPE_CHECKING:

        @property
        def _is_stepwise(self) -> bool: ...

        def attribute(self, inp: Any, **arguments: Any) -> Any: ...

        def _prompt(self, inp: Any, target: Any, contrast: Any) -> CheckedPrompt: ...

        def _generated(
            self,
            inputs: Mapping[str, Any],
            gen_args: Mapping[str, Any] | None,
            arguments: Mapping[str, Any],
        ) -> GeneratedAnswer: ...

        def _explained(
            self,
            steps: DecodingSteps,
            answer: GeneratedAnswer,
            contrast_ids: Tensor | None,
            progress: bool,
            arguments: dict[str, Any],
        ) -> StepAttributions: ...

        def _result(
            self,
            prompt: CheckedPrompt,
            target_ids: Tensor,
            every_token: Tensor,
            fields: dict[str, Any],
            normalize: bool,
        ) -> VLMAttributionResult: ...

    def _attribute_list(
        self,
        inps: Sequence[Any],
        targets: Sequence[Any] | None,
        gen_args: Mapping[str, Any] | None,
        progress: bool,
        batch_size: int,
        arguments: dict[str, Any],
    ) -> list[VLMAttributionResult]:
        """One result an input, in their order.

        Raises:
            ValueError: not as many targets as inputs, or no positive batch size.
        """
        if targets is None:
            targets = [None] * len(inps)
        is_list = isinstance(targets, (list, tuple))
        if not is_list or len(targets) != len(inps) or batch_size < 1:
            raise ValueError(
                f"Expected a list with a target for each of {len(inps)} inputs and a "
                f"positive batch_size, got {len(targets) if is_list else targets!r} "
                f"and {batch_size}."
            )
        results: dict[int, VLMAttributionResult] = {}
        with tqdm(
            total=len(inps), desc="explaining", unit="input", disable=not progress
        ) as bar:
            batches, prepared = self._batches(inps, targets, batch_size)
            for places in batches:
                if len(places) == 1:
                    (only,) = places
                    results[only] = self.attribute(
                        inps[only], target=targets[only], gen_args=gen_args, **arguments
                    )
                else:
                    prompts = [
                        (
                            prepared.pop(place)
                            if place in prepared
                            else self._prompt(inps[place], targets[place], None)
                        )
                        for place in places
                    ]
                    explained = self._explain_together(
                        prompts, gen_args, dict(arguments)
                    )
                    results.update(zip(places, explained))
                bar.update(len(places))
        return [results[place] for place in range(len(inps))]

    def _batches(
        self, inps: Sequence[Any], targets: Sequence[Any], batch_size: int
    ) -> tuple[list[list[int]], dict[int, CheckedPrompt]]:
        """Which inputs go through the model together, all of which are checked before
        the first does; and the prompts of some of them."""
        if not self._is_stepwise or not self.adapter.can_be_batched:
            return [[place] for place in range(len(inps))], {}
        prepared: dict[int, CheckedPrompt] = {}
        groups: dict[Any, list[int]] = {}
        for place, (inp, target) in enumerate(zip(inps, targets)):
            prompt = self._prompt(inp, target, None)
            key = batch_key(prompt.inputs, prompt.layout.num_tokens, self.adapter)
            groups.setdefault((key, prompt.answer is None), []).append(place)
            if len(prepared) < MOST_PREPARED:
                prepared[place] = prompt
        batches = [
            group[start : start + batch_size]
            for group in groups.values()
            for start in range(0, len(group), batch_size)
        ]
        return batches, prepared

    def _explain_together(
        self,
        prompts: list[CheckedPrompt],
        gen_args: Mapping[str, Any] | None,
        arguments: dict[str, Any],
    ) -> list[VLMAttributionResult]:
        normalize = bool(arguments.pop("normalize", True))
        config: Any = self.model.config
        pad_id = getattr(config.get_text_config(), "pad_token_id", None) or 0
        inputs = left_padded(
            [prompt.inputs for prompt in prompts], self.adapter, pad_id
        )
        answers = [prompt.answer for prompt in prompts if prompt.answer is not None]
        if answers:
            answer = GeneratedAnswer(right_padded(answers, pad_id))
            lengths = [len(answer) for answer in answers]
        else:
            answer = self._generated(inputs, gen_args, arguments)
            lengths = answer_lengths(answer.ids, self.model, gen_args)
        steps = DecodingSteps(self.model, inputs, answer.ids, answer.target_logits)
        explained = self._explained(steps, answer, None, False, arguments)
        results = []
        for row, (prompt, length) in enumerate(zip(prompts, lengths)):
            every_token, fields = fields_of(explained, row, length, prompt.layout)
            ids = answer.ids[row, :length]
            results.append(self._result(prompt, ids, every_token, fields, normalize))
        return results
