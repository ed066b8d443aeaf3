"""The statistics of a confirmation: summaries over seeds, and differences between arms on the same seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from study.confirm.moderated_test import planned_freedom

CONFIDENCE = 0.95
POWER = 0.8
"""The chance that a test with `seeds_needed` seeds shows a difference as large as the one seen."""
MOST_SEEDS = 10_000


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A metric over seeds: `low` to `high` is the 95 % interval of the mean (t), which needs two seeds."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An arm minus another on the same seeds: `low` to `high` is the 95 % interval of the mean, `p` of a paired t-test.

    With fewer than two seeds, or if all differences are the same number other than 0, no test is possible, and `low`,
    `high` and `p` are None. If all differences are 0, the arms are equal and p is 1.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    p: float | None


def summary(values: Sequence[float | None]) -> Summary | None:
    """Returns mean, standard deviation (n - 1) and interval of the values that are finite numbers; None without any."""
    x = np.array([value for value in values if value is not None and math.isfinite(value)], dtype=np.float64)
    if len(x) == 0:
        return None
    mean = float(x.mean())
    if len(x) == 1:
        return Summary(n=1, mean=mean, sd=None, low=None, high=None)
    sd = float(x.std(ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 1)) * sd / math.sqrt(len(x))
    return Summary(n=len(x), mean=mean, sd=sd, low=mean - half, high=mean + half)


def paired_difference(arm: Mapping[int, float | None], other: Mapping[int, float | None]) -> Difference | None:
    """Returns the difference of two arms, each given by seed, over the seeds that both have; None without any."""
    seeds = sorted(arm.keys() & other.keys())
    pairs = [(a, b) for seed in seeds if (a := arm[seed]) is not None and (b := other[seed]) is not None]
    x = np.array([(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)], dtype=np.float64).reshape(-1, 2)
    differences = x[:, 0] - x[:, 1]
    n = len(differences)
    if n == 0:
        return None
    mean = float(differences.mean())
    if not differences.any():
        return Difference(n=n, mean=0.0, sd=0.0, low=0.0, high=0.0, p=1.0)
    # Equal differences differ by rounding only, which is no variation between seeds.
    if n == 1 or np.ptp(differences) <= 8 * np.finfo(np.float64).eps * np.abs(x).max():
        return Difference(n=n, mean=mean, sd=None, low=None, high=None, p=None)
    test = stats.ttest_rel(x[:, 0], x[:, 1])
    interval = test.confidence_interval(CONFIDENCE)
    return Difference(
        n=n,
        mean=mean,
        sd=float(differences.std(ddof=1)),
        low=float(interval.low),
        high=float(interval.high),
        p=float(test.pvalue),
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values adjusted for their number, so that all claims together err with probability alpha (Holm 1979).

    A p-value of None is no test and stays None.
    """
    tested = [p for p in p_values if p is not None]
    adjusted = iter(holm_adjusted(np.array(tested, dtype=np.float64)).tolist())
    return [None if p is None else next(adjusted) for p in p_values]


def holm_adjusted(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns p-values adjusted for their number along the last axis (Holm 1979)."""
    order = np.argsort(p_values, axis=-1)
    rising = np.take_along_axis(p_values, order, -1) * np.arange(p_values.shape[-1], 0, -1)
    adjusted = np.empty_like(p_values)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(rising, axis=-1), 1), -1)
    return adjusted


def power_of_test(gain: float, seeds: int, alpha: float, arms: int = 1) -> float:
    """Returns how often a verdict's test shows a true difference with its sign, if all arms have the same variance.

    Args:
        gain: the true difference, in standard deviations of a difference on one seed.
        alpha: the level of the test of one arm.
        arms: how many arms the baseline is compared with; the test is a paired t-test with one.
    """
    freedom = planned_freedom(arms, seeds)
    least, centre = stats.t.isf(alpha / 2, freedom), abs(gain) * math.sqrt(seeds)
    return float(stats.nct.sf(least, freedom, centre))


def seeds_needed(difference: Difference, alpha: float, arms: int = 1) -> int | None:
    """Returns the seeds with which a verdict at level `alpha` shows a difference as large as the one seen.

    It does so in `POWER` of all cases, given the standard deviation seen. None if the difference or its deviation is
    0, or if more than MOST_SEEDS are needed.
    """
    if not difference.sd or not difference.mean:
        return None
    effect = difference.mean / difference.sd
    return first_seeds(lambda n: power_of_test(effect, n, alpha, arms) >= POWER)


def first_seeds(is_enough: Callable[[int], bool]) -> int | None:
    """Returns the least number of seeds, from 2 on, that is enough; None if it is above MOST_SEEDS."""
    low, high = 1, 2  # `low` is too few
    while not is_enough(high):
        low, high = high, 2 * high
        if low > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high if high <= MOST_SEEDS else None
