"""The price of early stopping: ASHA, simulated again and again on the curves of a study's completed trials."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from study.engine.early_stopping import REDUCTION_FACTOR, rungs
from study.report.trials import Trial, ranked

FEWEST = 8
"""Fewer completed trials say nothing about a search."""
DRAWS = 400


@dataclass(frozen=True, kw_only=True)
class StoppingPrice:
    """What a grace period costs and saves, as means over simulated searches.

    Attributes:
        kept: the share of the searches in which the best trial reached its end.
        regret: the best loss at the end minus the loss of the best trial, in nats per token.
        cost: the steps that were trained, as a share of the steps without early stopping.
    """

    grace_steps: int
    kept: float
    regret: float
    cost: float


def stopping_prices(
    trials: Sequence[Trial], steps: int, group_of: Callable[[Trial], str] = lambda _: ""
) -> list[StoppingPrice]:
    """Returns the price of each grace period that ends at an evaluation; nothing for too few completed trials.

    Each simulated search draws as many trials as were completed, with replacement and in random order (bootstrap).
    Protected trials stay protected. All trials are taken to be equally fast.

    Args:
        group_of: returns the group of a trial. Early stopping compares trials of the same group only.
    """
    completed = [t for t in ranked(trials) if t.steps[-1] == steps]
    if len(completed) < FEWEST:
        return []
    graces = sorted({step for t in completed for step in t.steps if 0 < step < steps})
    generator = np.random.default_rng(0)  # the same report for the same study
    draws = generator.integers(len(completed), size=(DRAWS, len(completed)))
    samples = [[completed[i] for i in draw] for draw in draws]
    return [_price(grace, samples, steps, group_of) for grace in graces]


def thinned(prices: Sequence[StoppingPrice], grace_steps: int, most: int = 8) -> list[StoppingPrice]:
    """Returns some of the prices, evenly spread, the one of the study's own grace period among them."""
    stride = -(-len(prices) // most)
    return [price for i, price in enumerate(prices) if i % stride == 0 or price.grace_steps == grace_steps]


def _price(
    grace_steps: int, samples: Sequence[Sequence[Trial]], steps: int, group_of: Callable[[Trial], str]
) -> StoppingPrice:
    milestones = rungs(steps, grace_steps)
    reached = [simulate_asha(sample, milestones, steps, group_of) for sample in samples]
    regrets = []
    for sample, ends in zip(samples, reached, strict=True):
        found = [t.best_val_loss for t, end in zip(sample, ends, strict=True) if end == steps]
        regrets.append(min(found) - min(t.best_val_loss for t in sample))
    return StoppingPrice(
        grace_steps=grace_steps,
        kept=float(np.mean(np.array(regrets) == 0)),
        regret=float(np.mean(regrets)),
        cost=float(np.mean([sum(ends) / (steps * len(ends)) for ends in reached])),
    )


def simulate_asha(
    trials: Sequence[Trial], milestones: Sequence[int], steps: int, group_of: Callable[[Trial], str] = lambda _: ""
) -> list[int]:
    """Returns the step that each trial reaches under ASHA (Li et al. 2020), as Ray Tune has it.

    A trial that is worse at a milestone than the best third of the trials that were there before stops. Trials of equal
    speed reach each milestone in the order in which they began. How many train at once therefore changes nothing.
    """
    recorded: dict[tuple[str, int], list[float]] = defaultdict(list)
    reached = []
    for trial in trials:
        end = steps
        for milestone in milestones:
            loss, losses = loss_at(trial, milestone), recorded[group_of(trial), milestone]
            cutoff = _cutoff(losses)
            insort(losses, loss)
            if cutoff is not None and loss > cutoff and trial.record.known_good is None:
                end = milestone
                break
        reached.append(end)
    return reached


def loss_at(trial: Trial, step: int) -> float:
    """Returns a trial's best loss by the first evaluation at or after a step."""
    return trial.best_val_losses[bisect_left(trial.steps, step)]


def _cutoff(losses: Sequence[float]) -> float | None:
    """Returns the quantile 1 / REDUCTION_FACTOR of sorted losses, as numpy interpolates it; None if there is none."""
    if not losses:
        return None
    place = (len(losses) - 1) / REDUCTION_FACTOR
    low = int(place)
    return losses[low] + (losses[min(low + 1, len(losses) - 1)] - losses[low]) * (place - low)
