"""Muon: steps of the same length in all directions of a matrix's gradient."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn, Tensor

# Of the polynomial X -> a X + b (X X') X + c (X X')^2 X, which in five steps moves
# singular values, unless they are very small, into [0.7, 1.2].
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices of about the same singular vectors, with singular values of about 1.

    Args:
        matrices (Tensor): ``(..., rows, columns)``

    Returns:
        *Tensor* of the same shape, computed in bfloat16
    """
    a, b, c = COEFFICIENTS
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    x = x.to(torch.bfloat16)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return result


class Muon(torch.optim.Optimizer):
    """Gradient descent with momentum, each step orthogonalised.

    For the weights of hidden linear layers; everything else is better trained by AdamW.
    See `Jordan et al. <https://kellerjordan.github.io/posts/muon/>`_.

    Args:
        params (iterable): matrices, or groups of them
        lr (float): learning rate
        momentum (float, optional): momentum, after Nesterov. Default: 0.95
        weight_decay (float, optional): decoupled weight decay. Default: 0.0
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore
        """One step, of all parameters that have a gradient."""
        for group in self.param_groups:
            # Matrices of the same shape are orthogonalised together.
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for (rows, columns), parameters in shapes.items():
                steps = [self._direction(p, group["momentum"]) for p in parameters]
                # Independent of the matrix's shape, as its entries' size would not be.
                length = group["lr"] * max(1.0, rows / columns) ** 0.5
                for parameter, step in zip(
                    parameters, orthogonalised(torch.stack(steps))
                ):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(step, alpha=-length)

    def _direction(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["average"] = torch.zeros_like(parameter)
        average: Tensor = state["average"]
        assert parameter.grad is not None
        average.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)
