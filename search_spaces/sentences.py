"""The space `sentences`: the three dropouts of 2-Tier SimCSE (Wang, Zhou & Wang 2025), for the task sentences.

In SimCSE dropout is what makes the two views of a verse differ: dropout is the training signal. A schedule that ends
at 0 would have two unfair advantages. Its last views are equal, and its training loss is low without any learning:
therefore the score is measured with dropout off, on verses that do not train. Its supervised steps have no noise, and
so short a training rewards that, whatever the rate was before: therefore every schedule of this space ends at 0.1,
SimCSE's own rate, or above. Curriculum dropout starts at 0, but while the task models language. With the task's
presets, curriculum dropout is within a tenth of its final rate before the first contrastive step.
"""

from typing import Any

import optuna

DROPOUTS = ("standard", "curriculum", "learned_standout")
EQUAL_SHARES = ("dropout", DROPOUTS)
LOWEST_RATE, HIGHEST_RATE = 0.1, 0.5
_STANDOUT: dict[str, Any] = {"alpha": 1.0, "calibrated": True, "elsewhere": "standard"}
_SHAPES: dict[str, dict[str, Any]] = {
    "standard": {"shape": "constant"},
    "curriculum": {"decay": 10.0},  # Morerio et al. 2017
    "learned_standout": {"shape": "constant"} | _STANDOUT,
}
KNOWN_GOOD: dict[str, dict[str, Any]] = {
    # SimCSE's own rate, for BERT; then one at which the views of so small a model differ.
    f"{dropout} {rate:g}": {"dropout": dropout, "rate": rate} | shape
    for rate in (0.1, 0.3)
    for dropout, shape in _SHAPES.items()
}


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Returns standard dropout, curriculum dropout, or standout whose gate learns ("adaptive dropout")."""
    dropout = trial.suggest_categorical("dropout", DROPOUTS)
    rate = _suggest_rate(trial, "rate")
    if dropout == "curriculum":
        # Below 8 the rate would still be low when the first contrastive steps need it.
        decay = trial.suggest_float("decay", 8.0, 30.0, log=True)
        return {"kind": "exponential", "initial_rate": 0.0, "final_rate": rate, "decay": decay}
    schedule: dict[str, Any] = {"kind": "constant", "rate": rate}
    if trial.suggest_categorical("shape", ("constant", "linear")) == "linear":
        schedule = {"kind": "linear", "initial_rate": rate, "final_rate": _suggest_rate(trial, "final_rate")}
    if dropout == "standard":
        return schedule
    family = {
        "kind": "standout",
        "learned": True,
        "alpha": trial.suggest_float("alpha", 0.25, 2.0, log=True),  # as in the space families
        "calibrated": trial.suggest_categorical("calibrated", (False, True)),
        "elsewhere": trial.suggest_categorical("elsewhere", ("none", "standard")),
    }
    return {"schedule": schedule, "family": family}


def _suggest_rate(trial: optuna.Trial, name: str) -> float:
    return trial.suggest_float(name, LOWEST_RATE, HIGHEST_RATE, step=0.01)
