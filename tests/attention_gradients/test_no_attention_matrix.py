"""The closed form makes nothing of the size queries x keys."""

import pytest
import torch
from tests.helpers.explained import explained
from tests.helpers.tiny_models import prompt_inputs, random_targets, tiny_vlm
from torch.utils._python_dispatch import TorchDispatchMode


class _LargestPair(TorchDispatchMode):
    """Watches every tensor that is made for two axes of at least ``length``."""

    def __init__(self, length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.length = length
        self.found: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(tensor, torch.Tensor):
                long_axes = [size for size in tensor.shape if size >= self.length]
                if len(long_axes) >= 2:
                    self.found.add(f"{func}: {tuple(tensor.shape)}")
        return output


def test_no_tensor_of_queries_by_keys() -> None:
    """With a prompt longer than every size of the model, two long axes are a matrix of
    queries and keys. Under eager attention they are there, and are seen."""
    inputs, targets = prompt_inputs(before=130, after=6), random_targets(4)
    prompt_length = inputs["input_ids"].shape[1]
    with _LargestPair(prompt_length - 1) as alone, torch.no_grad():
        tiny_vlm()(**inputs)
    if alone.found:
        pytest.skip(f"SDPA of torch {torch.__version__} makes it in the model itself")
    with _LargestPair(prompt_length - 1) as closed_form:
        explained(tiny_vlm(), inputs, targets)
    assert not closed_form.found
    with _LargestPair(prompt_length - 1) as autograd:
        explained(tiny_vlm(), inputs, targets, engine="autograd")
    assert autograd.found
