"""The fused attention of CUDA against float64, in Triton's interpreter on a CPU (`conftest` switches it on)."""

import sys

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

if sys.platform != "linux":
    pytest.skip("Triton exists for Linux only", allow_module_level=True)
from model import fused_attention
from model.dropout import LEVELS

SHAPES = [
    (2, 64, 2, 16),
    (1, 96, 2, 32),
    (2, 16, 2, 16),
    (1, 70, 3, 24),
    (1, 130, 1, 64),
    (1, 40, 1, 128),
    (1, 1, 1, 16),
]
"""(B, T, nh, hs): whole blocks and parts of them, head sizes that are no powers of 2."""


def attend(qkv: Tensor, rate: float, seed: int = 5) -> tuple[Tensor, Tensor, float]:
    """Returns the output, which probabilities were kept (B, nh, T, T), and the scale."""
    threshold = round(rate * LEVELS)
    scale = LEVELS / (LEVELS - threshold)
    out, _, mask = fused_attention._attend(
        qkv, torch.tensor([seed]), torch.tensor(threshold, dtype=torch.int32), torch.tensor(scale)
    )
    B, T, _, nh, _ = qkv.shape
    bits = (mask[..., None].int() >> torch.arange(8)) & 1
    return out, bits.reshape(B, nh, T, -1)[..., :T].bool(), scale


def reference(qkv: Tensor, kept: Tensor, scale: float) -> Tensor:
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # (B, nh, T, hs)
    T = q.shape[2]
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    p = scores.masked_fill(~torch.ones(T, T).tril().bool(), float("-inf")).softmax(-1)
    return ((p * kept * scale) @ v).transpose(1, 2)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_are_those_of_float64(shape: tuple[int, int, int, int], rate: float) -> None:
    B, T, nh, hs = shape
    torch.manual_seed(T)
    qkv = torch.randn(B, T, 3, nh, hs, requires_grad=True)
    out, kept, scale = attend(qkv, rate)
    exact = qkv.detach().double().requires_grad_()
    expected = reference(exact, kept.double(), scale)
    gradient = torch.randn_like(out)
    out.backward(gradient)
    expected.backward(gradient.double())
    assert qkv.grad is not None
    assert exact.grad is not None
    if not expected.any():  # the one probability that there is was dropped
        assert not out.any()
        return
    assert error(out.detach(), expected.detach()) < 1e-6
    assert (qkv.grad.double() - exact.grad).norm() < 1e-6 * max(1.0, float(exact.grad.norm()))


def test_half_precision_is_as_exact_as_its_rounding() -> None:
    """In float16, since the interpreter multiplies no bfloat16; `study.bench.gpu` checks that on a GPU."""
    torch.manual_seed(0)
    qkv = torch.randn(1, 64, 3, 2, 32).half().requires_grad_()
    out, kept, scale = attend(qkv, 0.2)
    exact = qkv.detach().double().requires_grad_()
    expected = reference(exact, kept.double(), scale)
    gradient = torch.randn_like(out)
    out.backward(gradient)
    expected.backward(gradient.double())
    assert out.dtype == torch.float16
    assert qkv.grad is not None
    assert exact.grad is not None
    assert error(out.detach(), expected.detach()) < 2e-3
    assert error(qkv.grad, exact.grad) < 2e-3


def test_the_dropped_share_is_the_rate_and_masks_are_independent() -> None:
    qkv = torch.zeros(8, 128, 3, 4, 16)
    n = 8 * 4 * 128 * 128
    masks = [attend(qkv, rate, seed)[1].double() for rate, seed in ((0.2, 1), (0.2, 2), (0.5, 3))]
    for mask, rate in zip(masks, (0.2, 0.2, 0.5), strict=True):
        assert abs(1 - mask.mean() - rate) < 5 * (rate * (1 - rate) / n) ** 0.5
    first, other, half = (mask - mask.mean() for mask in masks)
    pairs = {"seeds": (first, other), "seeds and rates": (first, half), "heads": (first[:, :1], first[:, 1:2])}
    pairs |= {f"keys {k} apart": (first[..., k:], first[..., :-k]) for k in (1, 2, 8, 16)}
    pairs |= {"rows": (first[:, :, 1:], first[:, :, :-1]), "sequences": (first[1:], first[:-1])}
    for name, (a, b) in pairs.items():
        correlation = float((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt())
        assert abs(correlation) < 5 / (a * b).numel() ** 0.5, name


def test_the_same_seed_gives_the_same_mask_and_torch_gives_the_seed() -> None:
    qkv = torch.randn(1, 32, 3, 2, 16)
    assert torch.equal(attend(qkv, 0.4, 7)[1], attend(qkv, 0.4, 7)[1])
    threshold, scale = torch.tensor(LEVELS // 2, dtype=torch.int32), torch.tensor(2.0)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(fused_attention.attend(qkv, threshold, scale))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_changing_rate_compiles_nothing_again() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(fused_attention.attend, backend=counter, dynamic=False)
    qkv = torch.randn(1, 16, 3, 1, 16, requires_grad=True)
    threshold, scale = torch.zeros((), dtype=torch.int32), torch.ones(())
    for level in range(0, LEVELS, LEVELS // 20):
        threshold.fill_(level)
        scale.fill_(LEVELS / (LEVELS - level))
        compiled(qkv, threshold, scale).sum().backward()
    assert counter.frame_count == 1
