"""Muon's steps have one length in all directions, and its state is kept."""

import torch
from captum_dexar.training.muon import Muon, orthogonalised
from torch import nn


def test_singular_values_come_near_one_and_vectors_stay() -> None:
    torch.manual_seed(0)
    for shape in ((3, 24, 48), (3, 48, 24)):
        left, values, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
        values = values.clamp(min=0.2 * values.max())
        out = orthogonalised(left @ values.diag_embed() @ right)
        inside = left.mT @ out @ right.mT
        diagonal = inside.diagonal(dim1=-2, dim2=-1)
        assert 0.6 < diagonal.min() and diagonal.max() < 1.3
        rest = inside - diagonal.diag_embed()
        assert rest.abs().max() < 0.05


def test_a_step_is_that_of_each_matrix_alone() -> None:
    torch.manual_seed(1)
    start, gradients = torch.randn(3, 6, 4), torch.randn(2, 3, 6, 4)

    def trained(chosen: list[int]) -> list[torch.Tensor]:
        parameters = [nn.Parameter(start[i].clone()) for i in chosen]
        optimizer = Muon(parameters, lr=0.1, weight_decay=0.5)
        for gradient in gradients:
            for parameter, i in zip(parameters, chosen):
                parameter.grad = gradient[i].clone()
            optimizer.step()
        return [parameter.detach() for parameter in parameters]

    together = trained([0, 1, 2])
    for i in range(3):
        (alone,) = trained([i])
        torch.testing.assert_close(together[i], alone, rtol=0.02, atol=2e-3)


def test_without_gradient_nothing_moves_but_decay_moves_with_it() -> None:
    moved, still = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    optimizer = Muon([moved, still], lr=0.1, weight_decay=0.5)
    moved.grad = torch.zeros(4, 4)
    optimizer.step()
    assert torch.equal(still, torch.ones(4, 4))
    torch.testing.assert_close(moved.detach(), torch.full((4, 4), 0.95))


def test_it_finds_a_minimum() -> None:
    torch.manual_seed(2)
    goal, weight = torch.randn(8, 8), nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=0.1)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 150)
        loss = (weight - goal).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (weight - goal).abs().max() < 0.1
