"""The test of a verdict: paired differences from the baseline, with variances moderated across arms (Smyth 2004).

Five seeds tell little about one arm's variance, and 50 runs of ten arms tell much about the variance of an average arm.
The test therefore moves each arm's variance towards the mean of all arms.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]

MOST_FREEDOM = 4.0
"""Prior degrees of freedom per own degree of freedom, at most. More shrinkage claims too much where SDs differ."""
FREEDOM_PER_ARM = 0.5
"""Each arm beyond two adds so many prior degrees of freedom per own one: few arms say little about their spread."""
LARGEST_OWN = 4.0
"""Own degrees of freedom that count for the limits above; with more seeds, an arm's own variance takes over."""
BASELINE_SHARE = 0.2
"""The baseline's share of these limits. Its variance is in all differences, so a noisy baseline must stay noisy."""
LEAST_SHARE = 1e-5
"""A variance counts as at least this share of the median, so that its logarithm is finite (limma's value)."""

ROUNDING = 1e-9
"""Fewer degrees of freedom than this are none."""
ULPS = 64
"""Residuals of so many units in the last place of the largest loss are rounding, no variation."""


@dataclass(frozen=True, kw_only=True)
class Moderated:
    """Arms against the baseline; all arrays have the shape (..., arms), without the baseline.

    Attributes:
        mean: of the arm's loss minus the baseline's on the same seeds, in nats.
        variance: moderated, of one such difference, in squared nats.
        freedom: its degrees of freedom.
        seeds: how many seeds the arm shares with the baseline.
        seed_sd: (...), in nats: how runs of an average arm differ over seeds, beyond what a seed does to all arms.
    """

    mean: Array
    variance: Array
    freedom: Array
    seeds: Array
    seed_sd: Array

    @property
    def error(self) -> Array:
        """The standard error of the mean, in nats."""
        return np.sqrt(self.variance / self.seeds)

    @property
    def p(self) -> Array:
        """Two-sided p-values; NaN where the variance is 0 or unknown."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(self.variance > 0, self.mean / self.error, np.nan)
        return np.asarray(2 * stats.t.sf(np.abs(t), self.freedom))

    def half_width(self, level: float) -> Array:
        """Returns half the width of the interval that misses the true mean with probability `level`, in nats."""
        return np.asarray(stats.t.isf(level / 2, self.freedom) * self.error)


def moderate(losses: Array) -> Moderated:
    """Tests each arm against the baseline.

    The model is loss = arm + seed + noise, where each arm's noise has a variance of its own. The residuals of the least
    squares fit give each arm a variance. Each variance moves towards the mean of all, as if that mean was known from so
    many more degrees of freedom as Smyth's estimate says (section 6.2), up to the limits above. The variance of a
    difference is the sum of two variances. Its degrees of freedom are Satterthwaite's, with the correlation that the
    fit gives to the residuals of two arms. With one arm this is the paired t-test.

    Args:
        losses: (..., 1 + arms, seeds), the baseline first; NaN where a run is missing. All leading indices miss the
            same runs.
    """
    m = losses.shape[-2]
    present = np.isfinite(losses.reshape(-1, *losses.shape[-2:])[0])
    shared = present[1:] & present[0]
    seeds = shared.sum(-1).astype(np.float64)
    squares, fitted = _squared_residuals(np.where(present, losses, 0.0), present)
    own = fitted / (1 - 1 / m)  # seeds - 1 where no run is missing
    limit = np.minimum(own, LARGEST_OWN) * min(MOST_FREEDOM, FREEDOM_PER_ARM * (m - 2))
    limit[0] *= BASELINE_SHARE
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(shared, losses[..., 1:, :] - losses[..., :1, :], 0.0).sum(-1) / seeds
        variances = squares / fitted
        pooled = squares.sum(-1, keepdims=True) / fitted.sum()
        prior = np.minimum(_prior_freedom(variances, own)[..., None], limit)
        moderated = (prior * pooled + own * variances) / (prior + own)
        a, b, fa, fb = moderated[..., 1:], moderated[..., :1], (prior + own)[..., 1:], (prior + own)[..., :1]
        together = 2 * a * b / (m - 1) ** 2 / np.sqrt(fa * fb)
        freedom = (a + b) ** 2 / (a**2 / fa + b**2 / fb + together)
    return Moderated(
        mean=mean,
        variance=a + b,
        freedom=freedom,
        seeds=np.broadcast_to(seeds, mean.shape),
        seed_sd=np.sqrt(pooled[..., 0]),
    )


def planned_freedom(arms: int, seeds: int) -> float:
    """Returns the degrees of freedom that a test will have if all arms have the same variance and no run fails."""
    m, own = arms + 1, seeds - 1.0
    limit = min(own, LARGEST_OWN) * min(MOST_FREEDOM, FREEDOM_PER_ARM * (m - 2))
    fa, fb = own + limit, own + BASELINE_SHARE * limit
    return 4 / (1 / fa + 1 / fb + 2 / (m - 1) ** 2 / math.sqrt(fa * fb))


def _squared_residuals(losses: Array, present: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Fits loss = arm + seed; returns each arm's sum of squared residuals, and its expectation for a variance of 1."""
    weights = present.astype(np.float64)
    normal = np.block([[np.diag(weights.sum(1)), weights], [weights.T, np.diag(weights.sum(0))]])
    inverse = np.linalg.pinv(normal, hermitian=True)
    sums = np.concatenate([losses.sum(-1), losses.sum(-2)], axis=-1)
    effects, m = sums @ inverse, len(weights)
    residuals = np.where(present, losses - effects[..., :m, None] - effects[..., None, m:], 0.0)
    least = ULPS * np.finfo(np.float64).eps * np.abs(losses).max((-2, -1), keepdims=True)
    residuals = np.where(np.abs(residuals) > least, residuals, 0.0)
    diagonal = np.diag(inverse)
    leverage = diagonal[:m, None] + diagonal[None, m:] + 2 * inverse[:m, m:]
    fitted = ((1 - leverage) * weights).sum(1)
    return (residuals**2).sum(-1), np.where(fitted > ROUNDING, fitted, 0.0)


def _prior_freedom(variances: Array, own: Array) -> Array:
    """Returns Smyth's estimate of the prior degrees of freedom, (...): infinite if variances differ by chance only."""
    least = LEAST_SHARE * np.median(variances, axis=-1, keepdims=True)
    logs = np.log(np.maximum(variances, least)) - special.digamma(own / 2) + np.log(own / 2)
    excess = logs.var(axis=-1, ddof=1) - special.polygamma(1, own / 2).mean()
    return np.where(excess > 0, 2 * _inverse_trigamma(np.maximum(excess, 1e-12)), np.inf)


def _inverse_trigamma(x: Array) -> Array:
    """Solves trigamma(y) = x by Newton's method (Smyth 2004, appendix), which converges from below for every x > 0."""
    y = 0.5 + 1 / x
    for _ in range(20):
        trigamma = special.polygamma(1, y)
        y = y + trigamma * (1 - trigamma / x) / special.polygamma(2, y)
    return np.asarray(y)
