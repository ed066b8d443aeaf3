"""The arms of a confirmation: a study's best schedules, and controls that show which part of a schedule helps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from model.paper import PAPER
from model.regularizer import Regularizer
from model.schedules import Constant, Linear, Piecewise, Reversed, Schedule, ValLoss, from_dict
from study.base.names import METRIC, Outcome
from study.base.ranking import Replicates, best_first
from study.base.regularizers import parts_of, parts_of_row
from study.training.regularized import Regularized, parts

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
class Arm(Regularized):
    """One of the compared regularizers, with its name and its purpose in a few words."""

    name: str
    meaning: str

    @property
    def is_constant_rate(self) -> bool:
        """Whether it is a constant rate of standard dropout, as the baseline is."""
        return is_constant_rate(self.regularizer)


@dataclass(frozen=True, kw_only=True)
class CompletedTrial(Regularized):
    """A completed trial of a study, with its regularizer and its recorded rates as (progress, rate)."""

    trial: int
    rates: tuple[tuple[float, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the trial as plain values."""
        return {
            "trial": self.trial,
            **self.regularizer.to_dict(),
            "rates": [list(point) for point in self.rates],
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> "CompletedTrial":
        """Makes a trial from plain values."""
        rates = tuple((float(progress), float(rate)) for progress, rate in d["rates"])
        return cls(trial=int(d["trial"]), **parts(Regularizer.from_dict(parts_of(d))), rates=rates)


def best_of_study(
    rows: Iterable[Mapping[str, Any]], top: int | None = None, replicates: Replicates | None = None
) -> list[CompletedTrial]:
    """Returns the best completed trials with distinct regularizers, best first, from the rows of a trials.parquet.

    Raises ValueError if a regularizer in them is none.
    """
    by_trial: dict[int, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        by_trial.setdefault(row["trial"], []).append(row)
    completed = [trial for trial in by_trial if by_trial[trial][-1]["outcome"] == Outcome.COMPLETED]
    distinct: dict[Regularizer, CompletedTrial] = {}
    for trial in best_first(
        completed,
        loss=lambda trial: by_trial[trial][-1][METRIC],
        number=lambda trial: trial,
        replicates=replicates,
    ):
        regularizer = Regularizer.from_dict(parts_of_row(by_trial[trial][0]))
        rates = tuple((row["progress"], row["dropout_rate"]) for row in by_trial[trial])
        found = CompletedTrial(trial=trial, **parts(regularizer), rates=rates)
        distinct.setdefault(canonical_regularizer(regularizer), found)
    return list(distinct.values())[:top]


def arms(
    top: Sequence[CompletedTrial], best_rate: float, steps: int, more: Sequence[Arm] = ()
) -> tuple[list[Arm], dict[str, str]]:
    """Returns the arms, the baseline first, and the names left out, each with the arm that has the same regularizer.

    Args:
        best_rate: the constant rate that won the sweep.
        steps: the length of a run; a mean rate is the mean over these steps.
        more: the arms of a study of several families, which takes them instead of the paper's schedules.
    """
    winner = top[0]
    mean, backwards = Constant(mean_rate(winner, steps)), Reversed(open_loop(winner))
    wanted = [
        Arm(name=BASELINE, meaning="best constant rate by its own sweep", schedule=Constant(best_rate)),
        Arm(name=NO_DROPOUT, meaning="no dropout", schedule=Constant(0.0)),
        *(
            Arm(
                name=f"top-{i}",
                meaning=f"the study's number {i}, trial {found.trial}",
                **parts(found.regularizer),
            )
            for i, found in enumerate(top, 1)
        ),
        *more,
        Arm(
            name=MEAN,
            meaning="constant at the winner's mean rate",
            **parts(replace(winner.regularizer, schedule=mean)),
        ),
        Arm(
            name=REVERSED,
            meaning="the winner backwards in time",
            **parts(replace(winner.regularizer, schedule=backwards)),
        ),
        *(
            Arm(name=PAPER_PREFIX + name, meaning=f"the paper's {name} schedule", schedule=from_dict(schedule))
            for name, schedule in PAPER.items()
            if not more
        ),
    ]
    first: dict[Regularizer, str] = {}
    names = {arm.name: first.setdefault(canonical_regularizer(arm.regularizer), arm.name) for arm in wanted}
    kept = [arm for arm in wanted if names[arm.name] == arm.name]
    return kept, {name: same for name, same in names.items() if name != same}


def most_arms(top: Sequence[CompletedTrial], steps: int, more: Sequence[Arm] = ()) -> list[Arm]:
    """Returns the arms as long as the sweep has not chosen a rate: for a rate that no other arm has."""
    return max((arms(top, rate, steps, more)[0] for rate in SWEEP_RATES), key=len)


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


def is_constant_rate(regularizer: Regularizer) -> bool:
    """Whether a regularizer is a constant rate of standard dropout at nanoGPT's sites, the same in all layers."""
    simple = canonical_regularizer(regularizer)
    return simple.is_plain and isinstance(simple.schedule, Constant)


def canonical_regularizer(regularizer: Regularizer) -> Regularizer:
    """Returns the simplest regularizer that drops the same; at rate 0 no family drops anything."""
    schedule = canonical(regularizer.schedule)
    return Regularizer(schedule) if schedule == Constant(0.0) else replace(regularizer, schedule=schedule)


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
