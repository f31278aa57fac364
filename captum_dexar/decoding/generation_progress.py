"""A progress bar over the tokens that a model generates."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from captum.attr._core.llm_attr import DEFAULT_GEN_ARGS
from captum_dexar.decoding.step_attributions import OnlineAttribution, StepAttributions
from torch import Tensor
from tqdm.auto import tqdm
from transformers.generation.streamers import BaseStreamer


class _TokenCounter(BaseStreamer):
    """Advances a progress bar with every generated token."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar
        self.has_seen_prompt = False

    def put(self, value: Tensor) -> None:
        if self.has_seen_prompt:
            self.bar.update(1)
        self.has_seen_prompt = True

    def end(self) -> None:
        self.bar.close()


@contextmanager
def generation_progress(
    gen_args: Mapping[str, Any] | None, progress: bool
) -> Iterator[Mapping[str, Any] | None]:
    """Adds a streamer with a progress bar to ``gen_args``, where possible."""
    arguments = dict(gen_args if gen_args is not None else DEFAULT_GEN_ARGS)
    if not progress or arguments.get("num_beams", 1) != 1 or "streamer" in arguments:
        yield gen_args
        return
    with tqdm(
        total=arguments.get("max_new_tokens"), desc="generating", unit="token"
    ) as bar:
        yield {**arguments, "streamer": _TokenCounter(bar)}


class OnlineWithProgress:
    """Wraps an :class:`OnlineAttribution` with its own progress bar."""

    def __init__(self, online: OnlineAttribution) -> None:
        self.online = online
        self.num_rivals = online.num_rivals
        self.is_due = online.is_due
        self.stop = online.stop
        self._bar: Any = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See :class:`OnlineAttribution`."""
        try:
            with self.online.watching():
                yield
        finally:
            if self._bar is not None:
                self._bar.close()

    def explain(
        self, tokens: Tensor, target_logits: Any, first_step: int
    ) -> StepAttributions:
        """See :class:`OnlineAttribution`."""
        num_steps = first_step + tokens.shape[1]
        if self._bar is None:
            # Before the work, of which it tells the speed.
            self._bar = tqdm(total=num_steps, desc="explaining", unit="token")
        explained = self.online.explain(tokens, target_logits, first_step)
        # The length of the answer is not known in advance.
        self._bar.total = num_steps
        self._bar.update(tokens.shape[1])
        return explained
