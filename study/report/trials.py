"""The trials of a report, from their evaluations: the ranking, the best so far, and the Pareto front."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from study.base import ranking
from study.base.names import Outcome
from study.base.ranking import best_first, mean_of_seeds
from study.base.regularizers import DEFAULTS, DEPTH, FAMILY, SCHEDULE, SIZE_RULE, parts_of, parts_of_row

Row = Mapping[str, Any]
"""One evaluation, with the columns of trials.parquet."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial in the study's records, without its evaluations.

    Attributes:
        outcome: None if the trial has not ended.
        schedule: None if the driver crashed before it stored the schedule. Its other parts: None for
            the default.
        trials_per_gpu: the most trials that shared the trial's GPU in any session.
        replicates: the best_val_loss of each completed replicate.
    """

    outcome: Outcome | None
    schedule: dict[str, Any] | None = None
    family: dict[str, Any] | None = None
    depth: dict[str, Any] | None = None
    size_rule: dict[str, Any] | None = None
    reason: str | None = None
    known_good: str | None = None
    trials_per_gpu: int = 1
    replicates: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial: its record, its regularizer, and a value for each of its evaluations. A failed trial may have none."""

    number: int
    record: TrialRecord
    schedule: dict[str, Any]
    steps: tuple[int, ...]
    dropout_rates: tuple[float, ...]
    val_losses: tuple[float, ...]
    best_val_losses: tuple[float, ...]
    train_seconds: float
    family: dict[str, Any] = field(default_factory=lambda: DEFAULTS[FAMILY])
    depth: dict[str, Any] = field(default_factory=lambda: DEFAULTS[DEPTH])
    size_rule: dict[str, Any] = field(default_factory=lambda: DEFAULTS[SIZE_RULE])

    @property
    def kind(self) -> str:
        """The kind of its schedule."""
        return str(self.schedule["kind"])

    @property
    def family_kind(self) -> str:
        """The kind of its family."""
        return str(self.family["kind"])

    @property
    def regularizer(self) -> dict[str, Any]:
        """Its regularizer, as a plain dict without defaults."""
        return parts_of(vars(self))

    @property
    def is_plain(self) -> bool:
        """Whether it is a schedule of standard dropout, uniform over the layers."""
        return self.regularizer.keys() == {SCHEDULE}

    @property
    def best_val_loss(self) -> float:
        """The lowest validation loss so far."""
        return self.best_val_losses[-1]

    @property
    def mean(self) -> float | None:
        """The mean best_val_loss of the trial and its replicates; None unless all of them have completed."""
        return mean_of_seeds(self.best_val_loss, self.record.replicates) if self.completed() else None

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
        regularizer = parts_of_row(mine[0]) if mine else parts_of(vars(record))
        if SCHEDULE in regularizer:
            trials.append(
                Trial(
                    number=number,
                    record=record,
                    **regularizer,
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
    completed = [t for t in trials if t.completed()]
    replicates = {t.number: t.record.replicates for t in completed}
    return best_first(completed, loss=lambda t: t.best_val_loss, number=lambda t: t.number, replicates=replicates)


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


def unshared(trials: Iterable[Trial]) -> list[Trial]:
    """Returns the completed trials that shared no GPU: sharing lengthens the training time."""
    return [t for t in trials if t.completed() and t.record.trials_per_gpu == 1]


def pareto_front(trials: Iterable[Trial]) -> list[Trial]:
    """Returns the Pareto front of completed trials, fastest first."""
    return ranking.pareto_front(
        trials, loss=lambda t: t.best_val_loss, seconds=lambda t: t.train_seconds, number=lambda t: t.number
    )
