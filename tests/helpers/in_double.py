"""Models that compute parts of a pass in float32, whatever their precision is.

Inkling 2's routers and norms ask for float32 by name, and do not take weights in
float64. For a reference, float32 is read as float64 there.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

IN_FLOAT32 = ("inkling2",)


class _Doubled(TorchFunctionMode):
    """Whoever asks for float32 gets float64."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        wanted = [torch.float64 if arg is torch.float32 else arg for arg in args]
        named = dict(kwargs or {})
        if named.get("dtype") is torch.float32:
            named["dtype"] = torch.float64
        return func(*wanted, **named)


@contextmanager
def everything_in_double() -> Iterator[None]:
    """Runs what is in float32, by name or by default, in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Doubled():
            yield
    finally:
        torch.set_default_dtype(before)


def in_double(model_type: str) -> AbstractContextManager[None]:
    """Where a model of this type that was converted to float64 can be run."""
    return everything_in_double() if model_type in IN_FLOAT32 else nullcontext()
