"""Winner's luck: what a fresh seed will most likely give, in simulated searches whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from study.report import fresh_seed
from study.report.fresh_seed import expected_losses


def search(generator: np.random.Generator, n: int, seed_sd: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rates (n, 9), true losses and observed losses (n,) of a search over straight lines."""
    time = np.linspace(0, 1, 9)
    first, last = generator.uniform(0, 0.5, (2, n))
    rates = first[:, None] * (1 - time) + last[:, None] * time
    curvature, optimum = generator.uniform(0.2, 1.5), generator.uniform(0.05, 0.35)
    truth = 2.4 + curvature * (rates.mean(1) - optimum) ** 2 + generator.normal(0, 0.03) * (last - first)
    return rates, truth, truth + generator.normal(0, seed_sd, n)


@pytest.mark.parametrize("n", [16, 32])
@pytest.mark.parametrize("seed_sd", [0.003, 0.01, 0.02])
def test_the_estimate_takes_most_of_the_luck_off_and_picks_better(n: int, seed_sd: float) -> None:
    generator = np.random.default_rng(n)
    raw, shrunken, regret, better_regret = [], [], [], []
    for _ in range(100):
        rates, truth, losses = search(generator, n, seed_sd)
        expected = np.array(expected_losses(rates.tolist(), losses.tolist()), float)
        best, likely = int(losses.argmin()), int(expected.argmin())
        raw.append(losses[best] - truth[best])
        shrunken.append(expected[best] - truth[best])
        regret.append(truth[best] - truth.min())
        better_regret.append(truth[likely] - truth.min())
    assert np.mean(raw) < 0
    assert abs(np.mean(shrunken)) < 0.25 * abs(np.mean(raw))
    assert np.mean(better_regret) < 0.8 * np.mean(regret)


def test_the_estimate_is_the_mean_of_the_gaussian_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_seed, "LENGTHS", (0.12,))
    monkeypatch.setattr(fresh_seed, "NOISES", (0.3, 1.0))
    rates, _, losses = search(np.random.default_rng(1), 7, 0.01)
    squared = np.square(rates[:, None] - rates[None]).mean(-1)
    kernel = np.exp(-squared / (2 * 0.12**2))
    estimates, weights = [], []
    for noise in (0.3, 1.0):
        inverse = np.linalg.inv(kernel + noise * np.eye(7))
        mean = inverse.sum(0) @ losses / inverse.sum()
        estimates.append(mean + kernel @ inverse @ (losses - mean))
        # Without the mean: the density of six contrasts, whose scale is the one that makes it largest.
        contrasts = np.linalg.qr(np.hstack([np.ones((7, 1)), np.eye(7)[:, 1:]]))[0][:, 1:]
        covariance = contrasts.T @ (kernel + noise * np.eye(7)) @ contrasts
        z = contrasts.T @ losses
        scale = z @ np.linalg.solve(covariance, z) / 6
        weights.append(multivariate_normal(np.zeros(6), scale * covariance).pdf(z))
    assert expected_losses(rates.tolist(), losses.tolist()) == pytest.approx(
        np.average(estimates, axis=0, weights=weights), rel=1e-9
    )


@given(st.integers(5, 12), st.integers(0, 100), st.floats(0.1, 10), st.floats(-5, 5))
def test_units_and_order_do_not_matter(n: int, seed: int, scale: float, shift: float) -> None:
    rates, _, losses = search(np.random.default_rng(seed), n, 0.01)
    found = np.array(expected_losses(rates.tolist(), losses.tolist()), float)
    assert (found >= losses.min() - 0.2).all()
    moved = expected_losses(rates[::-1].tolist(), (scale * losses[::-1] + shift).tolist())
    assert moved == pytest.approx(scale * found[::-1] + shift, rel=1e-5)


def test_groups_share_the_mean_alone() -> None:
    rates, _, losses = search(np.random.default_rng(3), 12, 0.01)
    twin = np.concatenate([rates, rates]).tolist()
    both = np.concatenate([losses, losses + 1]).tolist()
    apart = np.array(expected_losses(twin, both, ["standard"] * 12 + ["mix"] * 12), float)
    together = np.array(expected_losses(twin, both), float)
    assert np.abs(together[:12] - together[12:]).max() < 1e-6  # the same rates: the same expectation
    assert (apart[12:] - apart[:12] > 0.5).all()


def test_few_or_equal_trials() -> None:
    assert expected_losses([[0.1, 0.1]] * 4, [2.0, 2.1, 2.2, 2.3]) == [None] * 4
    assert expected_losses([[0.1, 0.1]] * 5, [2.0] * 5) == pytest.approx([2.0] * 5)
    assert expected_losses([[0.1, 0.1]] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx([3.0] * 5)
