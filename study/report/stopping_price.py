"""The price of early stopping: ASHA, simulated again and again on the curves of a study's completed trials."""

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from study.engine.early_stopping import REDUCTION_FACTOR, rungs
from study.report.trials import Trial, ranked

FEWEST = 8
"""Fewer completed trials say nothing about a search."""
AT_ONCE = 8
"""How many trials train at once in a simulation."""
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


def stopping_prices(trials: Sequence[Trial], steps: int, at_once: int = AT_ONCE) -> list[StoppingPrice]:
    """Returns the price of each grace period that ends at an evaluation; nothing for too few completed trials.

    Each simulated search draws as many trials as were completed, with replacement and in random order (bootstrap).
    Protected trials stay protected. All trials are taken to be equally fast.
    """
    completed = [t for t in ranked(trials) if t.steps[-1] == steps]
    if len(completed) < FEWEST:
        return []
    graces = sorted({step for t in completed for step in t.steps if 0 < step < steps})
    generator = np.random.default_rng(0)  # the same report for the same study
    draws = generator.integers(len(completed), size=(DRAWS, len(completed)))
    samples = [[completed[i] for i in draw] for draw in draws]
    return [_price(grace, samples, steps, at_once) for grace in graces]


def thinned(prices: Sequence[StoppingPrice], grace_steps: int, most: int = 8) -> list[StoppingPrice]:
    """Returns some of the prices, evenly spread, the one of the study's own grace period among them."""
    stride = -(-len(prices) // most)
    return [price for i, price in enumerate(prices) if i % stride == 0 or price.grace_steps == grace_steps]


def _price(grace_steps: int, samples: Sequence[Sequence[Trial]], steps: int, at_once: int) -> StoppingPrice:
    milestones = rungs(steps, grace_steps)
    reached = [simulate_asha(sample, milestones, steps, at_once) for sample in samples]
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


def simulate_asha(trials: Sequence[Trial], milestones: Sequence[int], steps: int, at_once: int) -> list[int]:
    """Returns the step that each trial reaches under ASHA (Li et al. 2020), as Ray Tune has it.

    A trial that is worse at a milestone than the best third of the trials that were there before stops.
    """
    milestones = [*milestones, steps]
    recorded: list[list[float]] = [[] for _ in milestones]
    reached = [0] * len(trials)
    waiting = iter(range(len(trials)))
    # Each event is a time in steps, the number of a trial, and the milestone that the trial comes to.
    events = [(milestones[0], number, 0) for number in islice(waiting, at_once)]
    heapq.heapify(events)
    while events:
        now, number, i = heapq.heappop(events)
        reached[number] = milestones[i]
        goes_on = milestones[i] < steps
        if goes_on:
            loss = loss_at(trials[number], milestones[i])
            cutoff = _cutoff(recorded[i])
            insort(recorded[i], loss)
            goes_on = cutoff is None or loss <= cutoff or trials[number].record.known_good is not None
        if goes_on:
            heapq.heappush(events, (now + milestones[i + 1] - milestones[i], number, i + 1))
        elif (later := next(waiting, None)) is not None:
            heapq.heappush(events, (now + milestones[0], later, 0))
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
