"""Which trial of a study is the winner: the one definition, for Optuna's trials, MLflow's runs and rows alike."""

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def best_first(completed: Iterable[T], *, loss: Callable[[T], float | None], number: Callable[[T], int]) -> list[T]:
    """Sorts completed trials by their best_val_loss, lowest first; of equal losses the earlier trial comes first.

    The first one is the winner.

    Args:
        loss: returns a trial's best_val_loss, which every completed trial has.
        number: returns a trial's number.
    """
    return sorted(completed, key=lambda trial: (_known(loss(trial)), number(trial)))


def _known(loss: float | None) -> float:
    assert loss is not None
    return loss
