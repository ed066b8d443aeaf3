"""How well early losses predict the end: rank correlations at ASHA's rungs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import spearmanr

from study.base.names import Outcome
from study.report.trials import Trial, ranked


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
