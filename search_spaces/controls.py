"""The space `controls`: constant rates, and falling schedules run backwards; a falling schedule must beat both."""

import math
from typing import Any

import optuna

from search_spaces import constant
from search_spaces.dynamic_dropout import suggest_decay

KNOWN_GOOD: dict[str, dict[str, Any]] = {
    **{name: {"kind": "constant"} | parameters for name, parameters in constant.KNOWN_GOOD.items()},
    "linear 0.2 to 0, reversed": {"kind": "reversed_linear", "peak_rate": 0.2},
    "exponential 0.2 to 0, reversed": {"kind": "reversed_exponential", "peak_rate": 0.2, "decay": math.log(10)},
}


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Returns a constant schedule, or a linear or exponential schedule reversed in time."""
    kind = trial.suggest_categorical("kind", ("constant", "reversed_linear", "reversed_exponential"))
    if kind == "constant":
        return constant.suggest(trial)
    # The reversed schedule falls from the peak to 0, so the control rises from 0 to the peak.
    of: dict[str, Any] = {
        "kind": kind.removeprefix("reversed_"),
        "initial_rate": constant.suggest_rate(trial, "peak_rate"),
        "final_rate": 0.0,
    }
    if kind == "reversed_exponential":
        of["decay"] = suggest_decay(trial)
    return {"kind": "reversed", "of": of}
