"""A device that is only pretended: a tensor on the wrong one is found on a CPU.

Tensors stay what they are, on the CPU. Some count as on another device: what is moved
there, made there, or computed from such tensors. They say so when they are asked, and
an operation that mixes them with others fails as it would on a GPU. Kernels, streams,
what libraries do otherwise on a GPU, and where Python code that runs within a backward
pass makes its tensors, are not tested by this.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

PRETENDED = torch.device("cuda", 0)
CPU = torch.device("cpu")
_MOVES = {"to", "cuda", "cpu"}
# These may read from one device and write to another.
_COPIES = {"copy_", "_to_copy", "_copy_from"}
# Positions in another tensor may be on the CPU.
_BY_POSITION = {"index", "index_put", "index_put_", "_index_put_impl_"}


class WrongDevice(RuntimeError):
    """Tensors of two devices in one operation."""


def _tensors(*values: Any) -> list[Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, Tensor)]


def _storage_of(tensor: Tensor) -> torch.UntypedStorage:
    with torch._C.DisableTorchFunction():
        # Within torch.vmap tensors are wrapped.
        while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            tensor = torch._C._functorch.get_unwrapped(tensor)
        return tensor.untyped_storage()


class _Places:
    """Which storages count as on the pretended device."""

    def __init__(self) -> None:
        # Weak references, so that no other storage gets the same address.
        self._there: dict[int, StorageWeakRef] = {}
        self._of_thread = threading.local()

    @property
    def making(self) -> bool:
        """Whether the operation at work, in this thread, makes tensors there."""
        return getattr(self._of_thread, "making", False)

    @making.setter
    def making(self, there: bool) -> None:
        self._of_thread.making = there

    def are_there(self, tensor: Tensor) -> bool:
        return _storage_of(tensor)._cdata in self._there

    def put(self, tensor: Tensor, there: bool) -> None:
        reference = StorageWeakRef(_storage_of(tensor))
        if there:
            self._there[reference.cdata] = reference
        else:
            self._there.pop(reference.cdata, None)


class _Operations(TorchDispatchMode):
    """Sees every operation, of backward passes too."""

    def __init__(self, places: _Places) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.places = places

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        given = _tensors(args, kwargs)
        there = [tensor for tensor in given if self.places.are_there(tensor)]
        checked = args[:1] if name in _BY_POSITION else (args, kwargs)
        here = [
            tensor
            for tensor in _tensors(checked)
            if tensor.dim() and not self.places.are_there(tensor)
        ]
        if there and here and name not in _COPIES:
            raise WrongDevice(
                "Expected all tensors to be on the same device, but found at least "
                f"two devices, {PRETENDED} and cpu, in {func}"
            )
        output = func(*args, **(kwargs or {}))
        known = {_storage_of(tensor)._cdata for tensor in given}
        makes_there = bool(there) if given else self.places.making
        for tensor in _tensors(output):
            if _storage_of(tensor)._cdata not in known:
                self.places.put(tensor, makes_there)
        return output


class _Functions(TorchFunctionMode):
    """Sees what Python asks of tensors: where they are, and where to make others."""

    def __init__(self, places: _Places) -> None:
        super().__init__()
        self.places = places

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        given = _tensors(args, kwargs)
        there = any(map(self.places.are_there, given))
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._attribute(func, args, there)
        if there and name in ("numpy", "__array__"):
            raise TypeError(f"can't convert {PRETENDED} device type tensor to numpy.")
        if name == "get_device":
            return PRETENDED.index if there else -1
        if name == "__deepcopy__":
            return self._marked(func(*args, **kwargs), there)
        if name in _MOVES and isinstance(args[0], Tensor):
            return self._moved(func, args, kwargs)
        if kwargs.get("device") is not None:
            there = torch.device(kwargs["device"]).type == PRETENDED.type
            kwargs["device"] = CPU if there else kwargs["device"]
            return self._marked(func(*args, **kwargs), there)
        before, self.places.making = self.places.making, there
        try:
            return func(*args, **kwargs)
        finally:
            self.places.making = before

    def _attribute(self, func: Any, args: Any, there: bool) -> Any:
        attribute = getattr(getattr(func, "__self__", None), "__name__", "")
        if there and attribute == "device":
            return PRETENDED
        if there and attribute in ("is_cuda", "is_cpu"):
            return attribute == "is_cuda"
        return func(*args)

    def _marked(self, output: Any, there: bool) -> Any:
        for tensor in _tensors(output):
            if self.places.are_there(tensor) != there:
                self.places.put(tensor, there)
        return output

    def _moved(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A copy, if it was on the other device."""
        tensor, *rest = args
        was = there = self.places.are_there(tensor)
        if func.__name__ == "to":
            for place, value in [*enumerate(rest), *kwargs.items()]:
                if isinstance(value, Tensor):
                    there = self.places.are_there(value)
                elif isinstance(value, (str, torch.device, int)) and (
                    not isinstance(value, bool)
                ):
                    there = torch.device(value).type == PRETENDED.type
                    if there:
                        (kwargs if isinstance(place, str) else rest)[place] = CPU
            moved = func(tensor, *rest, **kwargs)
        else:
            there, moved = func.__name__ == "cuda", tensor
        if was == there:
            return moved
        if _storage_of(moved)._cdata == _storage_of(tensor)._cdata:
            moved = moved.clone()
        return self._marked(moved, there)


@contextmanager
def second_device() -> Iterator[None]:
    """Within it ``.to("cuda")`` and ``device="cuda"`` pretend to be a device."""
    places = _Places()
    with _Operations(places), _Functions(places):
        yield
