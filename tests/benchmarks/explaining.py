"""The package's side of the benchmarks: explaining what has been generated."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from captum_dexar import LayerDexAR
from captum_dexar.decoding import DecodingSteps, generate, GeneratedAnswer
from captum_dexar.decoding.step_attributions import OnlineAttribution, StepAttributions
from captum_dexar.inputs import Prompt
from tests.benchmarks.models import answer, generating, prefilled
from tests.benchmarks.timing import Side
from torch import Tensor


def explaining_on_cache(
    model: Any, inputs: dict[str, Tensor], num_tokens: int, cache: Any = None
) -> Side:
    """Explaining ``num_tokens``, each time on a fresh copy of the prompt's cache.

    The model's logits of the tokens are known, as they are after generating.

    Args:
        model: the LLaVA
        inputs (dict): one prompt, or several
        num_tokens (int): of the answer
        cache (DynamicCache, optional): holds the prompt but its last token.
            Default: computed
    """
    method = LayerDexAR(model)
    ids = answer(num_tokens, inputs["input_ids"].shape[0])
    if cache is None:
        cache = prefilled(model, inputs)
    return Side(
        run=lambda fresh: method.attribute_steps(
            DecodingSteps(Prompt(model, inputs), ids), fresh
        ),
        prepare=lambda: copy.deepcopy(cache),
    )


class TimedLive:
    """A method that looks on while a model generates, and how long it explains.

    Attributes:
        seconds (float): of explaining; what is recorded on the way is part of
            generating
    """

    def __init__(self, online: OnlineAttribution) -> None:
        self.online = online
        self.num_rivals = online.num_rivals
        self.seconds = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        with self.online.watching():
            yield

    def stop(self) -> None:
        self.online.stop()

    def is_due(self, num_waiting: int) -> bool:
        return self.online.is_due(num_waiting)

    def explain(
        self, tokens: Tensor, target_logits: Any, first_step: int
    ) -> StepAttributions:
        start = time.perf_counter()
        explained = self.online.explain(tokens, target_logits, first_step)
        self.seconds += time.perf_counter() - start
        return explained


def explained_while_generating(
    model: Any, inputs: dict[str, Tensor], num_tokens: int
) -> tuple[GeneratedAnswer, float]:
    """Generates and explains; the answer, and the seconds that explaining took."""
    online = LayerDexAR(model).online(Prompt(model, inputs))
    assert online is not None
    timed = TimedLive(online)
    return generate(Prompt(model, inputs), generating(num_tokens), timed), timed.seconds
