"""The space `constant`: one rate for the whole training, the baseline that a schedule must beat."""

from typing import Any

import optuna

KNOWN_GOOD: dict[str, dict[str, Any]] = {
    "no dropout": {"rate": 0.0},
    "constant 0.2": {"rate": 0.2},
}


def suggest_rate(trial: optuna.Trial, name: str) -> float:
    """Returns a rate from the range that all spaces share.

    The range starts at no dropout and ends where half of every activation is lost; published GPTs of this size use 0.1
    to 0.2. A grid finer than 0.01 would show nothing, since neighbours differ by less than two seeds do.
    """
    return trial.suggest_float(name, 0.0, 0.5, step=0.01)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Returns a constant schedule."""
    return {"kind": "constant", "rate": suggest_rate(trial, "rate")}
