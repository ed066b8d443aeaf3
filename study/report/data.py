"""The data behind a report: pure functions from evaluations to trials, ranks, fronts and curves."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd
from scipy.stats import spearmanr

from study.base.names import Outcome
from study.base.ranking import best_first

Row = Mapping[str, Any]
"""One evaluation, with the columns of trials.parquet."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial in the study's records, without its evaluations.

    Attributes:
        outcome: None if the trial has not ended.
        schedule: None if the driver crashed before it stored the schedule.
        trials_per_gpu: the most trials that shared the trial's GPU in any session.
    """

    outcome: Outcome | None
    schedule: dict[str, Any] | None = None
    reason: str | None = None
    known_good: str | None = None
    trials_per_gpu: int = 1


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial: its record, its schedule, and a value for each of its evaluations. A failed trial may have none."""

    number: int
    record: TrialRecord
    schedule: dict[str, Any]
    steps: tuple[int, ...]
    dropout_rates: tuple[float, ...]
    val_losses: tuple[float, ...]
    best_val_losses: tuple[float, ...]
    train_seconds: float

    @property
    def kind(self) -> str:
        """The kind of its schedule."""
        return str(self.schedule["kind"])

    @property
    def best_val_loss(self) -> float:
        """The lowest validation loss so far."""
        return self.best_val_losses[-1]

    @property
    def best_step(self) -> int:
        """The first step with the lowest validation loss."""
        return self.steps[self.val_losses.index(min(self.val_losses))]

    def completed(self) -> bool:
        """Whether the trial completed and its evaluations are available."""
        return self.record.outcome is Outcome.COMPLETED and bool(self.steps)


def make_trials(rows: Iterable[Row], records: Mapping[int, TrialRecord]) -> list[Trial]:
    """Returns the trials of a study by number; trials without evaluations too, if their schedule is known."""
    evaluations = {
        number: sorted(group, key=lambda row: row["step"])
        for number, group in groupby(sorted(rows, key=lambda row: row["trial"]), key=lambda row: int(row["trial"]))
    }
    trials = []
    for number in sorted(evaluations.keys() | records.keys()):
        mine = evaluations.get(number, [])
        record = records.get(number) or TrialRecord(outcome=None)
        schedule = json.loads(mine[0]["schedule"]) if mine else record.schedule
        if schedule is not None:
            trials.append(
                Trial(
                    number=number,
                    record=record,
                    schedule=schedule,
                    steps=tuple(row["step"] for row in mine),
                    dropout_rates=tuple(row["dropout_rate"] for row in mine),
                    val_losses=tuple(row["val_loss"] for row in mine),
                    best_val_losses=tuple(row["best_val_loss"] for row in mine),
                    train_seconds=mine[-1]["train_seconds"] if mine else 0.0,
                )
            )
    return trials


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Returns the completed trials, best first."""
    return best_first((t for t in trials if t.completed()), loss=lambda t: t.best_val_loss, number=lambda t: t.number)


@dataclass(frozen=True, kw_only=True)
class BestSoFar:
    """The best loss among the completed trials up to a number, and the summed training time of these trials."""

    number: int
    train_seconds: float
    best_val_loss: float | None
    completed: bool


def best_so_far(trials: Sequence[Trial]) -> list[BestSoFar]:
    """Returns the best loss so far at each trial that has evaluations, by number."""
    found: list[BestSoFar] = []
    seconds, best = 0.0, None
    for trial in trials:
        if trial.steps:
            seconds += trial.train_seconds
            if trial.completed():
                best = trial.best_val_loss if best is None else min(best, trial.best_val_loss)
            found.append(
                BestSoFar(number=trial.number, train_seconds=seconds, best_val_loss=best, completed=trial.completed())
            )
    return found


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Returns Spearman's rank correlation; None for fewer than three pairs, or where all of a side are equal."""
    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    return float(spearmanr(x, y).statistic)


@dataclass(frozen=True, kw_only=True)
class Rung:
    """How well the losses at a step predict the end.

    Attributes:
        correlation: Spearman's, of best_val_loss at the step and at the end, over the completed trials; None if
            undefined.
        completed: the number of completed trials.
        winner_rank: the later winner's rank at this step, from 1, among all trials that reached it.
        reached: the number of trials that reached the step.
        stopped: the number of trials that were stopped at the step.
    """

    step: int
    correlation: float | None
    completed: int
    winner_rank: int | None
    reached: int
    stopped: int


def rungs_at(steps: Iterable[int], trials: Sequence[Trial]) -> list[Rung]:
    """Returns a Rung for each step, from the first evaluation at or after it."""
    completed = ranked(trials)
    rungs = []
    for step in steps:
        then = {t.number: loss for t in trials if (loss := _best_at(t, step)) is not None}
        stopped = (t for t in trials if t.record.outcome is Outcome.STOPPED_EARLY and t.number in then)
        ends = [t for t in completed if t.number in then]
        winner = then.get(completed[0].number) if completed else None
        rungs.append(
            Rung(
                step=step,
                correlation=rank_correlation([then[t.number] for t in ends], [t.best_val_loss for t in ends]),
                completed=len(ends),
                winner_rank=None if winner is None else 1 + sum(loss < winner for loss in then.values()),
                reached=len(then),
                stopped=sum(_first_at(t, step) == len(t.steps) - 1 for t in stopped),
            )
        )
    return rungs


def _first_at(trial: Trial, step: int) -> int | None:
    return next((i for i, at in enumerate(trial.steps) if at >= step), None)


def _best_at(trial: Trial, step: int) -> float | None:
    i = _first_at(trial, step)
    return None if i is None else trial.best_val_losses[i]


def unshared(trials: Iterable[Trial]) -> list[Trial]:
    """Returns the completed trials that shared no GPU: sharing lengthens the training time."""
    return [t for t in trials if t.completed() and t.record.trials_per_gpu == 1]


def pareto_front(trials: Iterable[Trial]) -> list[Trial]:
    """Returns the trials that no other trial equals or beats in both time and loss, fastest first.

    Of several trials with the same time and loss, the first counts.
    """
    front: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t.train_seconds, t.best_val_loss, t.number)):
        if not front or trial.best_val_loss < front[-1].best_val_loss:
            front.append(trial)
    return front


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A parameter of the winner at an end of its range; `natural` if there is nothing beyond, as below a rate of 0."""

    name: str
    value: float
    low: float
    high: float
    natural: bool


NATURAL_LOW = {"rate": 0, "initial_rate": 0, "final_rate": 0, "peak_rate": 0, "patience": 1}
EDGE_SHARE = 0.05


def at_edge(name: str, value: float, low: float, high: float, *, log: bool, whole: bool) -> Edge | None:
    """Returns the edge that a value lies at, or None.

    At the edge is within a twentieth of the range, in the logarithm if it is searched so; for whole numbers, at its
    end.
    """
    if low == high:
        return None
    share = (math.log(value / low) / math.log(high / low)) if log else (value - low) / (high - low)
    margin = 1e-9 if whole else EDGE_SHARE + 1e-9
    if margin < share < 1 - margin:
        return None
    natural = share <= margin and NATURAL_LOW.get(name) == low
    return Edge(name=name, value=value, low=low, high=high, natural=natural)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One arm's values over the steps: their mean over the seeds, and one standard deviation (0 for a single seed)."""

    arm: str
    schedule: dict[str, Any]
    steps: tuple[int, ...]
    dropout_rates: tuple[float, ...]
    val_losses: tuple[float, ...]
    deviations: tuple[float, ...]
    seeds: int


def arm_curve(arm: str, rows: Iterable[Row]) -> Curve:
    """Returns the curve of an arm, at the steps that all of its seeds have reached."""
    table = pd.DataFrame(list(rows))
    seeds = table.seed.nunique()
    by_step = table.groupby("step").filter(lambda at: len(at) == seeds).groupby("step")
    losses = by_step.val_loss
    return Curve(
        arm=arm,
        schedule=json.loads(table.schedule[0]),
        steps=tuple(int(step) for step in by_step.groups),
        dropout_rates=tuple(by_step.dropout_rate.mean()),
        val_losses=tuple(losses.mean()),
        deviations=tuple(losses.std().fillna(0.0)),
        seeds=seeds,
    )


def trial_curve(name: str, trial: Trial) -> Curve:
    """Returns the curve of a single trial."""
    return Curve(
        arm=name,
        schedule=trial.schedule,
        steps=trial.steps,
        dropout_rates=trial.dropout_rates,
        val_losses=trial.val_losses,
        deviations=(0.0,) * len(trial.steps),
        seeds=1,
    )
