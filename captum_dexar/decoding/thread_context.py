"""What belongs to a thread in PyTorch, for a thread that works in another's place."""

import contextvars
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

# Device types that autocast is for.
AUTOCAST = ("cpu", "cuda", "xpu", "mps", "hpu", "xla")


class ThreadContext:
    """The caller's context, for a function that another thread is to run.

    Autocast, modes such as ``with torch.device(...)``, the current CUDA stream and
    context variables belong to a thread; a new one starts with the defaults.
    """

    def __init__(self) -> None:
        self._variables = contextvars.copy_context()
        self._modes: list[Any] = [
            *_get_current_function_mode_stack(),
            *_get_current_dispatch_mode_stack(),
        ]
        self._caches_casts = torch.is_autocast_cache_enabled()
        self._autocast = {
            kind: torch.get_autocast_dtype(kind)
            for kind in AUTOCAST
            if torch.is_autocast_enabled(kind)
        }
        self._stream: Any = None
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            self._stream = torch.cuda.current_stream()

    def run(self, function: Callable[[], None]) -> None:
        """Calls a function, in any thread, as if in the one that made this."""
        self._variables.run(self._run, function)

    def _run(self, function: Callable[[], None]) -> None:
        with ExitStack() as stack:
            if self._stream is not None:
                stack.enter_context(torch.cuda.stream(self._stream))
            for kind, dtype in self._autocast.items():
                stack.enter_context(
                    torch.autocast(kind, dtype, cache_enabled=self._caches_casts)
                )
            for mode in self._modes:
                stack.enter_context(mode)
            function()
