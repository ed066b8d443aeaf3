"""The dropout whose rate changes: its masks, its one setter, and what it costs torch.compile."""

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from model.dropout import LEVELS, Dropout, DropoutRate, set_dropout_rate
from model.gpt import GPT, GPTConfig

TINY = GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=16)
SIGMAS = 6
"""One in 500 million standard normals is farther out, so that chance passes for a fault of any of a hundred checks
with a probability under 1e-6; the seeds are fixed on top."""


def site(rate: float) -> Dropout:
    dropout = Dropout(DropoutRate())
    set_dropout_rate(dropout, rate)
    return dropout


def kept(dropout: nn.Module, *shape: int) -> Tensor:
    """Returns a mask as 0 and 1."""
    return (dropout(torch.ones(shape)) != 0).double()


def tokens(batch: int = 4) -> Tensor:
    return torch.arange(batch * TINY.block_size).view(batch, -1) % TINY.vocab_size


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_every_entry_is_dropped_or_scaled(rate: float) -> None:
    torch.manual_seed(1)
    p = round(rate * LEVELS) / LEVELS
    x = torch.randn(7, 11, 13)  # an odd number of elements: masks are made four at a time
    y = site(rate)(x)
    assert torch.equal(y, torch.where(y == 0, 0.0, x * (1 / (1 - p))))
    torch.testing.assert_close(y, torch.where(y == 0, 0.0, x / (1 - rate)), rtol=0.01, atol=0)


@pytest.mark.parametrize("rate", [1 / LEVELS, 0.0001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999, 1 - 1 / LEVELS, 0.9999999])
def test_share_dropped_is_the_rate(rate: float) -> None:
    torch.manual_seed(2)
    n = 2**22
    p = min(round(rate * LEVELS), LEVELS - 1) / LEVELS
    share = 1 - kept(site(rate), n).mean().item()
    assert share == pytest.approx(p, abs=SIGMAS * math.sqrt(p * (1 - p) / n))
    assert p == pytest.approx(rate, abs=1 / LEVELS)


@pytest.mark.parametrize("rate", [0.0, 1e-300, 0.499 / LEVELS])
def test_rate_under_half_the_granularity_does_nothing(rate: float) -> None:
    x, before = torch.ones(5), torch.get_rng_state()
    assert site(rate)(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_rate_over_half_the_granularity_counts() -> None:
    dropout = site(0.501 / LEVELS)
    assert dropout.active
    torch.testing.assert_close(dropout.rate.scale, torch.tensor(LEVELS / (LEVELS - 1)), rtol=0, atol=0)


def test_eval_mode_does_nothing() -> None:
    x = torch.ones(5)
    assert site(0.5).eval()(x) is x


def test_masks_differ_between_steps_and_sites_and_follow_the_seed() -> None:
    rate = DropoutRate()
    model = nn.ModuleList([Dropout(rate), Dropout(rate)])
    set_dropout_rate(model, 0.4)
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append([kept(dropout, 64) for _ in range(2) for dropout in model])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert not any(torch.equal(a, b) for a, b in combinations(runs[0], 2))


@pytest.mark.parametrize("rate", [0.3, 0.5])
def test_masks_are_uncorrelated(rate: float) -> None:
    torch.manual_seed(4)
    dropout = site(rate)
    p = round(rate * LEVELS) / LEVELS
    mask, next_mask = ((kept(dropout, 32, 4, 32, 64) - (1 - p)) / math.sqrt(p * (1 - p)) for _ in range(2))

    def correlation(a: Tensor, b: Tensor) -> float:
        """Returns it in standard deviations of the correlation of independent masks."""
        return (a * b).mean().item() * math.sqrt(a.numel())

    lagged = {
        (axis, lag): correlation(mask.narrow(axis, 0, n - lag), mask.narrow(axis, lag, n - lag))
        for axis, n in enumerate(mask.shape)
        for lag in {1, 2, 3, 4, 5, 8, 16, 32}
        if lag < n
    }
    lagged |= {
        ("next", lag): correlation(mask.flatten()[lag:], next_mask.flatten()[: mask.numel() - lag]) for lag in range(5)
    }
    assert {where: c for where, c in lagged.items() if abs(c) > SIGMAS} == {}


def test_first_entries_of_many_masks_are_uncorrelated() -> None:
    torch.manual_seed(6)
    dropout, p, n = site(0.3), round(0.3 * LEVELS) / LEVELS, 20_000
    masks = torch.stack([kept(dropout, 16) for _ in range(n)]) - (1 - p)  # a generator's first words
    covariance = masks.T @ masks / (n * p * (1 - p))
    assert (covariance - torch.eye(16)).abs().max() < SIGMAS * math.sqrt(2 / n)
    assert masks.mean(0).abs().max() < SIGMAS * math.sqrt(p * (1 - p) / n)


def test_backward_uses_the_mask_of_forward() -> None:
    torch.manual_seed(5)
    x = torch.ones(1000, requires_grad=True)
    y = site(0.3)(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())  # both are the mask times the scale
    assert 0 < (x.grad == 0).sum() < 1000


@pytest.mark.parametrize("rate", [1, -0.1, math.nan, math.inf, True, "0.2", None, 10**400])
def test_no_rate_is_refused(rate: Any) -> None:
    with pytest.raises(ValueError, match="dropout rate") as error:
        set_dropout_rate(GPT(TINY), rate)
    assert repr(rate)[:15] in str(error.value)


def test_model_without_sites_is_refused() -> None:
    with pytest.raises(ValueError, match="Sequential"):
        set_dropout_rate(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), 0.1)


def test_rate_reaches_every_site_of_the_gpt() -> None:
    torch.manual_seed(6)
    gpt = GPT(TINY)
    dropped: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            dropped[name] = int(((inputs[0] != 0) & (output == 0)).sum())

        return hook

    for name, module in gpt.named_modules():
        if isinstance(module, Dropout):
            module.register_forward_hook(count(name))
    set_dropout_rate(gpt, 0.5)
    a, b = gpt(tokens())[0], gpt(tokens())[0]
    assert not torch.equal(a, b)
    assert len(dropped) == 1 + 3 * TINY.n_layer
    assert all(n > 0 for n in dropped.values()), dropped
    set_dropout_rate(gpt, 0.0)
    dropped.clear()
    assert torch.equal(gpt(tokens())[0], gpt(tokens())[0])
    assert not any(dropped.values())


def test_rate_0_in_training_is_eval_bit_for_bit() -> None:
    torch.manual_seed(7)
    gpt = GPT(TINY)
    set_dropout_rate(gpt, 0.3)
    set_dropout_rate(gpt, 0.0)
    logits, loss = gpt(tokens(), tokens())
    eval_logits, eval_loss = gpt.eval()(tokens(), tokens())
    assert torch.equal(logits, eval_logits)
    assert torch.equal(loss, eval_loss)


RATES = [0.9 - i * 0.03 for i in range(30)] + [0.0, 0.5, 0.0]


def test_gpt_is_traced_twice_for_any_number_of_rates() -> None:
    torch._dynamo.reset()
    gpt, counter = GPT(TINY), CompileCounterWithBackend("eager")
    compiled = torch.compile(gpt, backend=counter, fullgraph=True)
    for rate in RATES:
        set_dropout_rate(compiled, rate)
        assert torch.equal(compiled(tokens())[0], compiled(tokens())[0]) == (rate == 0)
    assert counter.frame_count == 2


def test_compiled_site_follows_the_rate() -> None:
    torch._dynamo.reset()
    torch.manual_seed(8)
    n, counter = 2**17, CompileCounterWithBackend("inductor")
    model = nn.Sequential(site(0.0))
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for rate in RATES:
        set_dropout_rate(compiled, rate)
        x = torch.ones(n, requires_grad=True)
        y = compiled(x)
        y.sum().backward()
        p = round(rate * LEVELS) / LEVELS
        assert (y == 0).double().mean().item() == pytest.approx(p, abs=SIGMAS * math.sqrt(p * (1 - p) / n))
        assert torch.equal(y, torch.where(y == 0, 0.0, 1 / (1 - p)))
        assert x.grad is not None
        assert torch.equal(x.grad, y.detach())
    assert counter.frame_count <= 2
