"""Another thread that runs the same model at every point of an explanation."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

NAME = "of somebody else"


def elsewhere(work: Callable[[], Any]) -> Any:
    """What ``work`` returns in a thread of its own; this one waits for it."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=NAME)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def interleaved(
    model: nn.Module, parts: list[nn.Module], work: Callable[[], Any]
) -> Iterator[list[Any]]:
    """Within it another thread does its work before and after each run of some parts.

    Args:
        model (nn.Module): the model that is explained
        parts (list of nn.Module): of the model
        work (Callable): what the other thread does, with the same model

    Yields:
        List of what the work has returned each time.
    """
    results: list[Any] = []

    def interrupt(*unused: Any) -> None:
        if threading.current_thread().name != NAME:
            results.append(elsewhere(work))

    handles = [part.register_forward_pre_hook(interrupt) for part in parts]
    handles += [part.register_forward_hook(interrupt) for part in parts]
    try:
        yield results
    finally:
        for handle in handles:
            handle.remove()
