"""Losses: known values, limits, and gradients where rounding bites."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from src.training import ContrastiveLoss, FocalLoss


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(16, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 3


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.arange(16) % 5


def test_focal_loss_without_gamma_is_cross_entropy(logits, targets):
    torch.testing.assert_close(FocalLoss(gamma=0)(logits, targets), functional.cross_entropy(logits, targets))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_follows_its_formula(logits, targets, gamma):
    p = logits.softmax(dim=-1)[torch.arange(16), targets]
    torch.testing.assert_close(FocalLoss(gamma)(logits, targets), (-((1 - p) ** gamma) * p.log()).mean())


def test_focal_loss_of_a_known_case():
    """Two equal logits: p = 1/2, so the loss is (1/2)² ln 2."""
    loss = FocalLoss(gamma=2)(torch.zeros(1, 2), torch.tensor([1]))
    assert loss.item() == pytest.approx(0.25 * math.log(2))


def test_a_larger_gamma_makes_easy_samples_count_less(logits, targets):
    losses = [FocalLoss(gamma)(logits, targets).item() for gamma in (0, 1, 2, 4)]
    assert losses == sorted(losses, reverse=True)
    easy, hard = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    target = torch.tensor([0])
    ratio = [(FocalLoss(gamma)(easy, target) / FocalLoss(gamma)(hard, target)).item() for gamma in (0, 2)]
    assert ratio[1] < ratio[0] / 100


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_focal_loss_and_its_gradient_stay_finite(gamma, scale):
    logits = (torch.tensor([[1.0, -1.0, 0.0]]) * scale).repeat(3, 1).requires_grad_()
    loss = FocalLoss(gamma)(logits, torch.arange(3))
    loss.backward()
    assert torch.isfinite(loss)
    assert loss >= 0
    assert torch.isfinite(logits.grad).all()


def test_the_gradient_of_focal_loss_is_the_numerical_one(logits, targets):
    assert torch.autograd.gradcheck(lambda x: FocalLoss(2.0)(x, targets), logits.requires_grad_())


def test_focal_loss_pushes_up_the_true_class(logits, targets):
    logits.requires_grad_()
    FocalLoss()(logits, targets).backward()
    assert (logits.grad[torch.arange(16), targets] < 0).all()


def test_losses_refuse_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="gamma must not be negative, not -1"):
        FocalLoss(gamma=-1)
    with pytest.raises(ValueError, match="margin must be positive, not 0"):
        ContrastiveLoss(margin=0)


@pytest.mark.parametrize(
    ("distance", "same", "expected"),
    [
        (0.0, 1, 0.0),
        (3.0, 1, 9.0),
        (0.0, 0, 4.0),
        (0.5, 0, 2.25),
        (2.0, 0, 0.0),
        (7.0, 0, 0.0),
    ],
)
def test_contrastive_loss_of_known_distances(distance, same, expected):
    first, second = torch.zeros(1, 3), torch.tensor([[0.0, distance, 0.0]])
    loss = ContrastiveLoss(margin=2.0)(first, second, torch.tensor([same]))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_contrastive_loss_is_symmetric_and_a_mean():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    same = torch.tensor([1, 0, 1, 0, 0, 1])
    loss = ContrastiveLoss()
    torch.testing.assert_close(loss(first, second, same), loss(second, first, same.bool()))
    alone = torch.stack([loss(first[i : i + 1], second[i : i + 1], same[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(loss(first, second, same), alone.mean())


@pytest.mark.parametrize(("same", "farther"), [(1, False), (0, True)])
def test_a_step_against_the_gradient_moves_pairs_the_right_way(same, farther):
    first = torch.tensor([[0.1, 0.0]], requires_grad=True)
    second = torch.zeros(1, 2)
    ContrastiveLoss()(first, second, torch.tensor([same])).backward()
    moved = first.detach() - 0.01 * first.grad
    assert (moved.norm() > first.detach().norm()).item() is farther


@pytest.mark.parametrize("same", [0, 1])
def test_coinciding_pairs_have_a_finite_gradient(same):
    first = torch.ones(2, 3, requires_grad=True)
    ContrastiveLoss()(first, torch.ones(2, 3), torch.tensor([same, same])).backward()
    assert torch.isfinite(first.grad).all()
