"""The arms of a confirmation: a study's best schedules, and controls that show which part of a schedule helps."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.paper import PAPER
from model.schedules import Constant, Linear, Piecewise, Reversed, Schedule, ValLoss, from_dict
from study.base.names import METRIC, Outcome
from study.base.ranking import best_first

BASELINE = "best-constant"
NO_DROPOUT = "no-dropout"
MEAN = "mean-constant"
REVERSED = "top-1-reversed"
PAPER_PREFIX = "paper-"
SWEEP_RATES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""The constant rates that compete to be the baseline: the range of the search spaces, finer where GPTs of this size
have their best rate."""
RATE_DIGITS = 2
"""A mean rate is rounded to the grid of the search spaces: its neighbours differ by less than two seeds do."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One of the compared schedules, with its name and its purpose in a few words."""

    name: str
    meaning: str
    schedule: Schedule


@dataclass(frozen=True, kw_only=True)
class CompletedTrial:
    """A completed trial of a study, with its schedule and its recorded rates as (progress, rate)."""

    trial: int
    schedule: Schedule
    rates: tuple[tuple[float, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the trial as plain values."""
        return {
            "trial": self.trial,
            "schedule": self.schedule.to_dict(),
            "rates": [list(point) for point in self.rates],
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> "CompletedTrial":
        """Makes a trial from plain values."""
        rates = tuple((float(progress), float(rate)) for progress, rate in d["rates"])
        return cls(trial=int(d["trial"]), schedule=from_dict(d["schedule"]), rates=rates)


def best_of_study(rows: Iterable[Mapping[str, Any]], top: int) -> list[CompletedTrial]:
    """Returns the best completed trials with distinct schedules, best first, from the rows of a trials.parquet."""
    by_trial: dict[int, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        by_trial.setdefault(row["trial"], []).append(row)
    completed = [trial for trial in by_trial if by_trial[trial][-1]["outcome"] == Outcome.COMPLETED]
    distinct: dict[Schedule, CompletedTrial] = {}
    for trial in best_first(completed, loss=lambda trial: by_trial[trial][-1][METRIC], number=lambda trial: trial):
        schedule = from_dict(json.loads(by_trial[trial][0]["schedule"]))
        rates = tuple((row["progress"], row["dropout_rate"]) for row in by_trial[trial])
        distinct.setdefault(canonical(schedule), CompletedTrial(trial=trial, schedule=schedule, rates=rates))
    return list(distinct.values())[:top]


def arms(top: Sequence[CompletedTrial], best_rate: float, steps: int) -> tuple[list[Arm], dict[str, str]]:
    """Returns the arms, the baseline first, and the names left out, each with the arm that has the same schedule.

    Args:
        best_rate: the constant rate that won the sweep.
        steps: the length of a run; a mean rate is the mean over these steps.
    """
    winner = top[0]
    wanted = [
        Arm(name=BASELINE, meaning="best constant rate by its own sweep", schedule=Constant(best_rate)),
        Arm(name=NO_DROPOUT, meaning="no dropout", schedule=Constant(0.0)),
        *(
            Arm(name=f"top-{i}", meaning=f"the study's number {i}, trial {found.trial}", schedule=found.schedule)
            for i, found in enumerate(top, 1)
        ),
        Arm(name=MEAN, meaning="constant at the winner's mean rate", schedule=Constant(mean_rate(winner, steps))),
        Arm(name=REVERSED, meaning="the winner backwards in time", schedule=Reversed(open_loop(winner))),
        *(
            Arm(name=PAPER_PREFIX + name, meaning=f"the paper's {name} schedule", schedule=from_dict(schedule))
            for name, schedule in PAPER.items()
        ),
    ]
    first: dict[Schedule, str] = {}
    for arm in wanted:
        first.setdefault(canonical(arm.schedule), arm.name)
    kept = [arm for arm in wanted if first[canonical(arm.schedule)] == arm.name]
    same_as = {arm.name: first[canonical(arm.schedule)] for arm in wanted if first[canonical(arm.schedule)] != arm.name}
    return kept, same_as


def most_arms(top: Sequence[CompletedTrial], steps: int) -> list[Arm]:
    """Returns the arms as long as the sweep has not chosen a rate: for a rate that no other arm has."""
    return max((arms(top, rate, steps)[0] for rate in SWEEP_RATES), key=len)


def mean_rate(found: CompletedTrial, steps: int) -> float:
    """Returns the mean of a trial's rates over all steps."""
    schedule = open_loop(found)
    return round(sum(schedule.rate(step / steps) for step in range(steps)) / steps, RATE_DIGITS)


def open_loop(found: CompletedTrial) -> Schedule:
    """Returns a trial's schedule as a function of progress; a val_loss schedule becomes its recorded rates."""
    return Piecewise(points=found.rates) if isinstance(found.schedule, ValLoss) else found.schedule


def is_constant(schedule: Schedule) -> bool:
    """Whether a schedule never changes its rate."""
    return isinstance(canonical(schedule), Constant)


def canonical(schedule: Schedule) -> Schedule:
    """Returns the simplest schedule with the same rates, so that equal ones compare equal."""
    if isinstance(schedule, Reversed):
        of = canonical(schedule.of)
        if isinstance(of, Constant):
            return of
        if isinstance(of, Linear):
            return Linear(of.final_rate, of.initial_rate)
        return canonical(of.of) if isinstance(of, Reversed) else Reversed(of)
    d = schedule.to_dict()
    if isinstance(schedule, Piecewise):
        rates = {rate for _, rate in schedule.points}
    elif "peak_rate" in d:
        rates = {d["peak_rate"], 0.0}
    else:
        rates = {d[name] for name in ("rate", "initial_rate", "final_rate") if name in d}
    return Constant(round(rates.pop(), 9)) if len(rates) == 1 else schedule  # a grid of floats has last digits
