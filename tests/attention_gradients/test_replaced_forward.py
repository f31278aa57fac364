"""A module is run otherwise by one thread, and by no other."""

import threading
from collections.abc import Callable

import pytest
import torch
from captum_dexar.attention_gradients.interception import (
    forward_of,
    is_unpatched,
    replaced_forward,
)
from torch import nn, Tensor

ONE = torch.ones(1)


class _Doubles(nn.Module):
    def forward(self, tensor: Tensor) -> Tensor:
        return 2 * tensor


def plus(number: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor + number


def test_the_inner_one_is_called_and_everything_is_put_back() -> None:
    module = _Doubles()
    with replaced_forward({module: plus(10)}):
        assert module(ONE) == 11 and is_unpatched(module)
        with replaced_forward({module: plus(20)}):
            assert module(ONE) == 21
        with pytest.raises(ValueError), replaced_forward({module: plus(30)}):
            raise ValueError
        assert module(ONE) == 11
    assert module(ONE) == 2 and "forward" not in vars(module)


def test_a_replacement_can_call_what_it_replaces() -> None:
    module = _Doubles()
    own = forward_of(module)
    with replaced_forward({module: lambda tensor: own(tensor) + 1}):
        outer = forward_of(module)
        with replaced_forward({module: lambda tensor: outer(tensor) + 100}):
            assert module(ONE) == 103


def test_what_others_have_put_there_stays() -> None:
    module = _Doubles()
    own = module.forward
    vars(module)["forward"] = lambda tensor: own(tensor) + 1
    assert not is_unpatched(module)
    with replaced_forward({module: plus(10)}):
        assert module(ONE) == 11 and not is_unpatched(module)
    assert module(ONE) == 3


def test_other_threads_run_the_module_itself() -> None:
    module, barrier = _Doubles(), threading.Barrier(2)
    seen: dict[str, list[float]] = {"one": [], "other": []}

    def run(name: str, number: float) -> None:
        own = forward_of(module)
        with replaced_forward({module: lambda tensor: own(tensor) + number}):
            barrier.wait()
            for _ in range(200):
                seen[name].append(float(module(ONE)))
            barrier.wait()

    others = threading.Thread(target=run, args=("other", 100))
    others.start()
    run("one", 10)
    others.join()
    assert set(seen["one"]) == {12} and set(seen["other"]) == {102}
    assert module(ONE) == 2 and "forward" not in vars(module)
