"""The space `dynamic_dropout`: the three schedules of Yan & Shao (2024), and constant rates as their rivals."""

from typing import Any

import optuna

from model.paper import PAPER
from search_spaces import constant

# Optuna accepts only parameters that the space samples, so min_delta is omitted.
KNOWN_GOOD: dict[str, dict[str, Any]] = {
    **{name: {"kind": "constant"} | parameters for name, parameters in constant.KNOWN_GOOD.items()},
    **{
        f"{name} 0.2 to 0": {key: value for key, value in schedule.items() if key != "min_delta"}
        for name, schedule in PAPER.items()
    },
}


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Returns a constant, linear, exponential or val_loss schedule."""
    kind = trial.suggest_categorical("kind", ("constant", "linear", "exponential", "val_loss"))
    if kind == "constant":
        return constant.suggest(trial)
    # Both ends have the same range, so that the search decides whether a schedule falls or rises.
    schedule: dict[str, Any] = {
        "kind": kind,
        "initial_rate": constant.suggest_rate(trial, "initial_rate"),
        "final_rate": constant.suggest_rate(trial, "final_rate"),
    }
    if kind == "exponential":
        schedule["decay"] = suggest_decay(trial)
    if kind == "val_loss":
        # One move covers a fifth to four fifths of the way; outside that range it is a jump or hardly a move.
        schedule["factor"] = trial.suggest_float("factor", 0.2, 0.8, step=0.05)
        # A run has about 20 evaluations: more than 4 in a row without improvement happen once or never.
        schedule["patience"] = trial.suggest_int("patience", 1, 4)
        schedule["min_delta"] = 0.0  # any improvement counts: fixed windows leave an evaluation no noise
    return schedule


def suggest_decay(trial: optuna.Trial) -> float:
    """Returns the decay of an exponential schedule, which ends exp(-decay) of the way before its final rate.

    At 1 the schedule is hardly bent; at 10, as in Morerio et al. (2017), it is over after a third of the steps. The
    effect of a decay is proportional to its logarithm, so the scale is logarithmic.
    """
    return trial.suggest_float("decay", 1.0, 10.0, log=True)
