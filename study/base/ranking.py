"""Which trial of a study is the winner: the one definition, for Optuna's trials, MLflow's runs and rows alike."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

T = TypeVar("T")
MORE_SEEDS = 2
"""With so many seeds more than the study's own a trial is trained again, by --replicate."""
Replicates = Mapping[int, Sequence[float]]
"""The best_val_loss of each completed replicate, by the number of its trial."""


def best_first(
    completed: Iterable[T],
    *,
    loss: Callable[[T], float | None],
    number: Callable[[T], int],
    replicates: Replicates | None = None,
) -> list[T]:
    """Sorts completed trials. The first one is the winner.

    Trials whose replicates have all completed come first, by their mean over the seeds. The others follow by their
    best_val_loss. Of equal losses the earlier trial comes first.

    Args:
        loss: returns a trial's best_val_loss, which every completed trial has.
        number: returns a trial's number.
    """

    def place(trial: T) -> tuple[bool, float, int]:
        mine = _known(loss(trial))
        mean = mean_of_seeds(mine, (replicates or {}).get(number(trial), ()))
        return mean is None, mine if mean is None else mean, number(trial)

    return sorted(completed, key=place)


def pareto_front(
    completed: Iterable[T],
    *,
    loss: Callable[[T], float | None],
    seconds: Callable[[T], float],
    number: Callable[[T], int],
) -> list[T]:
    """Returns the trials that no other trial equals or beats in both time and loss, fastest first.

    Of several trials with the same time and loss, the first counts.
    """
    front: list[T] = []
    for trial in sorted(completed, key=lambda trial: (seconds(trial), _known(loss(trial)), number(trial))):
        if not front or _known(loss(trial)) < _known(loss(front[-1])):
            front.append(trial)
    return front


def mean_of_seeds(loss: float, replicates: Sequence[float]) -> float | None:
    """Returns the mean best_val_loss of a trial and its replicates; None unless all of them have completed."""
    return fmean((loss, *replicates)) if len(replicates) >= MORE_SEEDS else None


def _known(loss: float | None) -> float:
    assert loss is not None
    return loss
