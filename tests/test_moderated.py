"""The moderated test, against its derivation by hand and the paired t-test, and its error rates by simulation."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize, special, stats

from study.confirm.decision import ALPHA
from study.confirm.moderated_test import moderate, planned_freedom
from study.confirm.statistics import first_seeds, holm, holm_adjusted, power_of_test

STUDIES, ARMS, SEEDS = 2000, 9, 5
Noise = Callable[[np.random.Generator, tuple[int, int, int]], np.ndarray]


def by_hand(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns variance, degrees of freedom and p of each arm: dummies and least squares, a root finder, and loops."""
    m, n = losses.shape
    rows = [(arm, seed) for arm in range(m) for seed in range(n) if np.isfinite(losses[arm, seed])]
    design = np.array([[*(arm == a for a in range(m)), *(seed == s for s in range(n))] for arm, seed in rows], float)
    y = np.array([losses[row] for row in rows])
    residuals = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    leverage = np.diag(design @ np.linalg.pinv(design))
    mine = [np.array([row[0] == arm for row in rows]) for arm in range(m)]
    expected = np.array([(1 - leverage)[arm].sum() for arm in mine])
    squares = np.array([(residuals[arm] ** 2).sum() for arm in mine])
    variances, pooled, own = squares / expected, squares.sum() / expected.sum(), expected / (1 - 1 / m)
    z = np.log(variances) - special.digamma(own / 2) + np.log(own / 2)
    excess = z.var(ddof=1) - special.polygamma(1, own / 2).mean()
    prior = np.inf if excess <= 0 else 2 * optimize.brentq(lambda x: special.polygamma(1, x) - excess, 1e-6, 1e9)
    limits = [min(f, 4) * min(4, (m - 2) / 2) * (0.2 if arm == 0 else 1) for arm, f in enumerate(own)]
    k = np.minimum(prior, limits)
    v, f = (k * pooled + own * variances) / (k + own), k + own
    variance, freedom, p = [], [], []
    for arm in range(1, m):
        d = losses[arm] - losses[0]
        d = d[np.isfinite(d)]
        cross = 2 * v[arm] * v[0] / (m - 1) ** 2 / np.sqrt(f[arm] * f[0])
        variance.append(v[arm] + v[0])
        freedom.append((v[arm] + v[0]) ** 2 / (v[arm] ** 2 / f[arm] + v[0] ** 2 / f[0] + cross))
        p.append(2 * stats.t.sf(abs(d.mean()) / np.sqrt(variance[-1] / len(d)), freedom[-1]))
    return np.array(variance), np.array(freedom), np.array(p)


@pytest.mark.parametrize("missing", [[], [(2, 1)], [(0, 0), (3, 4)]])
@pytest.mark.parametrize(("arms", "seeds", "spread"), [(9, 5, 1.0), (9, 5, 2.5), (3, 8, 2.0), (4, 3, 1.0), (2, 5, 1.5)])
def test_the_test_is_its_derivation_by_hand(
    arms: int, seeds: int, spread: float, missing: list[tuple[int, int]]
) -> None:
    rng = np.random.default_rng(arms * seeds)
    losses = 2.4 + 0.01 * rng.standard_normal((1 + arms, seeds)) * np.geomspace(1, spread, 1 + arms)[:, None]
    for arm, seed in missing:
        if arm <= arms and seed < seeds:
            losses[arm, seed] = np.nan
    found, (variance, freedom, p) = moderate(losses), by_hand(losses)
    assert found.variance == pytest.approx(variance, rel=1e-6)
    assert found.freedom == pytest.approx(freedom, rel=1e-6)
    assert found.p == pytest.approx(p, rel=1e-6)


def test_one_arm_is_tested_by_the_paired_t_test() -> None:
    for seeds in (2, 3, 5, 12):
        losses = np.random.default_rng(seeds).normal(2.4, 0.01, (2, seeds))
        found, test = moderate(losses), stats.ttest_rel(losses[1], losses[0])
        assert found.p[0] == pytest.approx(test.pvalue, rel=1e-9)
        assert found.mean[0] + found.half_width(0.05)[0] == pytest.approx(test.confidence_interval(0.95).high, rel=1e-9)


def test_seeds_and_arms_may_be_shifted_and_losses_scaled() -> None:
    """What a seed does to all arms alike does not count; neither do the unit of the losses and the order of arms."""
    rng = np.random.default_rng(3)
    losses = rng.standard_normal((8, 5))
    found = moderate(losses)
    shifted = moderate(2.4 + 0.01 * (losses + rng.normal(0, 9, 5)))
    assert shifted.p == pytest.approx(found.p, rel=1e-8)
    assert shifted.seed_sd == pytest.approx(0.01 * found.seed_sd, rel=1e-8)
    assert moderate(losses[[0, *range(7, 0, -1)]]).p == pytest.approx(found.p[::-1], rel=1e-9)
    assert moderate(np.stack([losses, losses[[0, 3, 2, 1, 4, 5, 6, 7]]])).p[0] == pytest.approx(found.p, rel=1e-9)


def test_without_variation_or_with_one_seed_there_is_no_test() -> None:
    assert np.isnan(moderate(np.array([[1.0], [2.0]])).p).all()
    assert np.isnan(moderate(np.array([[1.0, 2.0], [1.5, 2.5], [1.25, 2.25]])).p).all()


def test_the_planned_freedom_is_that_of_equal_variances() -> None:
    for arms, seeds in ((9, 5), (3, 3), (1, 5), (6, 12)):
        signs = np.random.default_rng(0).standard_normal((400, 1 + arms, seeds))
        assert np.median(moderate(signs).freedom) == pytest.approx(planned_freedom(arms, seeds), rel=0.1)
    assert planned_freedom(1, 5) == pytest.approx(4)


def test_holm_of_many_studies_is_holm_of_each() -> None:
    p = np.random.default_rng(0).uniform(0, 0.2, (50, 7))
    assert holm_adjusted(p) == pytest.approx(np.array([holm(row.tolist()) for row in p]))


def losses_of(noise: Noise, arms: int = ARMS, seeds: int = SEEDS) -> np.ndarray:
    rng = np.random.default_rng(20261126)
    return noise(rng, (STUDIES, 1 + arms, seeds)) + rng.normal(0, 3, (STUDIES, 1, seeds))


def scaled(noise: np.ndarray, sds: np.ndarray) -> np.ndarray:
    return noise * sds[..., None]


NOISES: dict[str, Noise] = {
    "equal SDs": lambda rng, shape: rng.standard_normal(shape),
    "SDs from 0.5 to 2": lambda rng, shape: scaled(
        rng.standard_normal(shape), np.array([1, *np.geomspace(0.5, 2, shape[1] - 1)])
    ),
    "random SDs from 0.5 to 2": lambda rng, shape: scaled(
        rng.standard_normal(shape), np.exp(rng.uniform(-np.log(2), np.log(2), shape[:2]))
    ),
    "a baseline 1.6 times as noisy": lambda rng, shape: scaled(
        rng.standard_normal(shape), np.array([1.6] + [1] * (shape[1] - 1))
    ),
    "one arm twice as noisy": lambda rng, shape: scaled(
        rng.standard_normal(shape), np.array([1, 2] + [1] * (shape[1] - 2))
    ),
    "skewed": lambda rng, shape: rng.standard_exponential(shape),
    "heavy-tailed": lambda rng, shape: rng.standard_t(3, shape),
}


def claims(losses: np.ndarray) -> float:
    """Returns in which share of studies any arm is claimed to differ."""
    return float((holm_adjusted(moderate(losses).p) < ALPHA).any(1).mean())


@pytest.mark.parametrize("noise", NOISES)
def test_a_difference_is_rarely_claimed_where_there_is_none(noise: str) -> None:
    """In at most 6.5 % of 2,000 studies of 9 arms and 5 seeds."""
    assert claims(losses_of(NOISES[noise])) <= 0.065


@pytest.mark.parametrize(("arms", "seeds"), [(9, 2), (9, 3), (4, 2), (4, 3), (4, 5), (3, 3), (2, 2), (2, 3), (2, 5)])
def test_few_arms_and_few_seeds_claim_no_more(arms: int, seeds: int) -> None:
    for name, noise in NOISES.items():
        assert claims(losses_of(noise, arms, seeds)) <= 0.065, name


@pytest.mark.parametrize(("gain", "least"), [(2.0, 0.5), (3.0, 0.9)])
def test_a_gain_is_shown(gain: float, least: float) -> None:
    losses = losses_of(NOISES["equal SDs"])
    losses[:, 1] -= gain
    shown = (holm_adjusted(moderate(losses).p)[:, 0] < ALPHA) & (moderate(losses).mean[:, 0] < 0)
    assert shown.mean() >= least
    assert power_of_test(gain / np.sqrt(2), SEEDS, ALPHA / ARMS, ARMS) == pytest.approx(shown.mean(), abs=0.05)


def test_the_least_number_of_seeds_is_found() -> None:
    assert [first_seeds(lambda n, least=least: n >= least) for least in (1, 2, 3, 17, 10_000)] == [2, 2, 3, 17, 10_000]
    assert first_seeds(lambda n: False) is None
