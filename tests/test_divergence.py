"""The alpha-divergence: its formula, its limits, where it is 0, and its clipped gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.divergence import adaptive_divergence, alpha_divergence

ALPHAS = [-1.0, -0.5, 0.0, 0.5, 1.0, 2.0]


def logits(spread: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    student, teacher = (torch.randn(6, 9, generator=generator) * spread for _ in range(2))
    return student.requires_grad_(), teacher


def gradient(student: Tensor, loss: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss.sum(), student, retain_graph=True)
    return found


@pytest.mark.parametrize("alpha", ALPHAS)
def test_it_is_0_for_equal_distributions_and_so_is_its_gradient(alpha: float) -> None:
    student, _ = logits(spread=4)
    divergence = alpha_divergence(student, student.detach().clone(), alpha)
    assert torch.equal(divergence, torch.zeros(6))
    assert torch.equal(gradient(student, divergence), torch.zeros(6, 9))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_value_and_gradient_are_those_of_the_formula(alpha: float) -> None:
    student, teacher = logits()
    mine = student.detach().double().requires_grad_()
    q, p = F.softmax(mine, -1), F.softmax(teacher.double(), -1)
    if alpha == 1:
        expected = (p * (p / q).log()).sum(-1)
    elif alpha == 0:
        expected = (q * (q / p).log()).sum(-1)
    else:
        expected = (q * ((p / q) ** alpha - 1)).sum(-1) / (alpha * (alpha - 1))
    found = alpha_divergence(student, teacher, alpha, clip=1e9)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-7)
    assert (found > 0).all()
    torch.testing.assert_close(gradient(student, found).double(), gradient(mine, expected), rtol=1e-4, atol=1e-7)


def test_alpha_1_has_the_gradient_of_kl() -> None:
    student, teacher = logits(spread=3)
    kl = F.kl_div(F.log_softmax(student, -1), F.log_softmax(teacher, -1), reduction="none", log_target=True).sum(-1)
    found = alpha_divergence(student, teacher, 1.0, clip=1.0)  # whatever the clip
    torch.testing.assert_close(found, kl)
    torch.testing.assert_close(gradient(student, found), gradient(student, kl))
    torch.testing.assert_close(gradient(student, found), F.softmax(student, -1) - F.softmax(teacher, -1))


@pytest.mark.parametrize("alpha", [-1.0, 2.0])
def test_importance_weights_are_clipped_in_the_gradient_and_keep_it(alpha: float) -> None:
    """By hand, for two outcomes: p = (1/11, 10/11), q = (1/2, 1/2)."""
    student, teacher = torch.zeros(1, 2, requires_grad=True), torch.tensor([[0.0, math.log(10)]])
    u = [(2 / 11) ** alpha, (20 / 11) ** alpha]
    assert max(u) > 3 > min(u)
    weights = [min(x, 3.0) for x in u]
    # d log q_i / d z_j = [i = j] - q_j
    expected = [-sum(0.5 * w * ((i == j) - 0.5) for i, w in enumerate(weights)) / alpha for j in range(2)]
    divergence = alpha_divergence(student, teacher, alpha, clip=3.0)
    assert gradient(student, divergence)[0].tolist() == pytest.approx(expected, rel=1e-5)
    value = sum(0.5 * (w - 1) for w in weights) / (alpha * (alpha - 1))
    assert divergence.item() == pytest.approx(value, rel=1e-5)


def test_the_gradient_stays_finite_where_the_student_is_sure_and_wrong() -> None:
    student, teacher = torch.tensor([[90.0, -90.0]], requires_grad=True), torch.tensor([[-90.0, 90.0]])
    for alpha in ALPHAS:
        divergence = alpha_divergence(student, teacher, alpha)
        assert divergence.isfinite().all(), alpha
        assert gradient(student, divergence).isfinite().all(), alpha


def test_the_adaptive_one_takes_the_larger_for_each_token() -> None:
    student, teacher = logits(spread=1)
    low, high = alpha_divergence(student, teacher, -1.0), alpha_divergence(student, teacher, 1.0)
    assert (low > high).any()
    assert (low < high).any()
    larger = torch.maximum(low, high)
    found = adaptive_divergence(student, teacher, -1.0, 1.0)
    assert found.item() == pytest.approx(larger.mean().item())
    torch.testing.assert_close(gradient(student, found), gradient(student, larger.mean()))
    assert torch.equal(adaptive_divergence(student, teacher, 1.0, 1.0), high.mean())


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = logits()
    teacher.requires_grad_()
    adaptive_divergence(student, teacher, -1.0, 1.0).backward()
    assert teacher.grad is None
    assert student.grad is not None
