"""Winner's luck: the loss that each completed trial would most likely have with a fresh seed.

The lowest of many losses is low partly by luck. Trials with similar rates over time have similar true losses, so their
neighbours tell how much of a trial's loss is luck.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from study.base.regularizers import DEFAULTS, DEPTH, FAMILY, SIZE_RULE

FEWEST = 5
"""Fewer completed trials do not tell luck from merit."""
POINTS = 9
"""The places in a run at which the dropout rates of two trials are compared."""
LENGTHS = (0.03, 0.06, 0.12, 0.25, 0.5)
"""Differences of the dropout rate over which the loss may change."""
NOISES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""The variance between seeds, as a multiple of the variance between configurations."""


def kin(regularizer: Mapping[str, Any]) -> str:
    """Returns a name for what is dropped where. The rates of trials that share it can be compared."""
    family, depth, rule = (regularizer.get(part, DEFAULTS[part]) for part in (FAMILY, DEPTH, SIZE_RULE))
    return json.dumps([family["kind"], family.get("elsewhere"), family.get("sites"), depth["kind"], rule["kind"]])


def expected_losses(
    rates: Sequence[Sequence[float]], losses: Sequence[float], groups: Sequence[str] | None = None
) -> list[float | None]:
    """Returns the expected loss of each completed trial with a fresh seed; None for fewer than FEWEST trials.

    The losses are a Gaussian process of the rate over time, plus noise of the seed (Rasmussen & Williams 2006, eq. 2.25
    with a constant mean, section 2.7). A few trials cannot fix its two parameters. The result is therefore a mean over
    a grid of these, weighted by their restricted likelihood. The trials of a search share a seed: luck that similar
    trials share stays invisible.

    Args:
        rates: the dropout rates of each trial at its evaluations, evenly spaced.
        groups: a name for each trial; trials of different groups share the mean alone.
    """
    n = len(losses)
    if n < FEWEST:
        return [None] * n
    places = np.linspace(0, 1, POINTS)
    curves = np.array([np.interp(places, np.linspace(0, 1, len(mine)), mine) for mine in rates])
    squared = ((curves[:, None] - curves[None]) ** 2).mean(-1)  # (n, n)
    named = np.array(groups if groups is not None else [""] * n)
    is_kin = named[:, None] == named[None]
    likelihoods, estimates = [], []
    for length in LENGTHS:
        covariance = np.where(is_kin, np.exp(-squared / (2 * length**2)), 0.0)
        values, vectors = np.linalg.eigh(covariance)
        values = values.clip(min=0)
        ones, y = vectors.T @ np.ones(n), vectors.T @ np.array(losses)
        for noise in NOISES:
            variances = values + noise
            precision = (ones**2 / variances).sum()  # of the mean
            mean = (ones * y / variances).sum() / precision
            rest = y - mean * ones
            scale = max((rest**2 / variances).sum() / (n - 1), 1e-30)
            likelihoods.append(-(np.log(variances).sum() + np.log(precision) + (n - 1) * np.log(scale)) / 2)
            estimates.append(mean + vectors @ (values / variances * rest))
    weights = np.exp(np.array(likelihoods) - max(likelihoods))
    found: list[float | None] = (weights @ np.array(estimates) / weights.sum()).tolist()
    return found
