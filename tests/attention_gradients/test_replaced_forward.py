"""A module is run otherwise by one thread, and by no other."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum_dexar.attention_gradients.attention_call import AttentionCall
from captum_dexar.attention_gradients.interception import (
    forward_of,
    intercepted_attention,
    is_unpatched,
    replaced_forward,
)
from torch import nn, Tensor
from transformers.modeling_utils import AttentionInterface

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


def test_a_patch_of_the_user_in_the_meantime_stays() -> None:
    module = _Doubles()
    with replaced_forward({module: plus(10)}):
        inner = module.forward
        vars(module)["forward"] = lambda tensor: inner(tensor) + 100
        assert module(ONE) == 111
    assert module(ONE) == 102
    # And one that is put back later than it should be does no harm.
    vars(module)["forward"] = inner
    assert module(ONE) == 2 and is_unpatched(module)
    with replaced_forward({module: plus(10)}):
        assert module(ONE) == 11
    assert module(ONE) == 2
    made: Any = copy.deepcopy(module)
    assert made.forward.__self__ is made


def test_a_patch_of_the_attention_in_the_meantime_stays() -> None:
    original = AttentionInterface.get_interface
    calls: list[str] = []

    def look(call: AttentionCall) -> Tensor:
        calls.append("ours")
        made: Tensor = call.run()
        return made

    def function(module: nn.Module, *args: Any) -> Tensor:
        return ONE

    module = _Doubles()
    try:
        with intercepted_attention({module: 0}, look):
            inner: Any = AttentionInterface.get_interface

            def get_interface(self: Any, *args: Any) -> Any:
                calls.append("theirs")
                return inner(self, *args)

            AttentionInterface.get_interface = get_interface
        for _ in range(2):
            with intercepted_attention({module: 0}, look):
                attend = AttentionInterface().get_interface("eager", function)
                assert attend(module, ONE, ONE, ONE) is ONE
            assert AttentionInterface.get_interface is get_interface
        assert calls == ["theirs", "ours"] * 2
    finally:
        AttentionInterface.get_interface = original
