"""The space `supernet`: the dropout rule over the sizes, beside the schedules of the default space."""

from typing import Any

import optuna

from model.size import DROPOUT_RULES
from search_spaces import dynamic_dropout

EQUAL_SHARES = ("dropout_rule", DROPOUT_RULES)
KNOWN_GOOD: dict[str, dict[str, Any]] = {
    f"{name}, {rule}": {"dropout_rule": rule} | dynamic_dropout.KNOWN_GOOD[name]
    for name in ("constant 0.2", "linear 0.2 to 0")
    for rule in DROPOUT_RULES
} | {"no dropout": {"dropout_rule": "width"} | dynamic_dropout.KNOWN_GOOD["no dropout"]}


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Returns a schedule, and under `training` the field of the run's config that is searched."""
    rule = trial.suggest_categorical("dropout_rule", DROPOUT_RULES)
    return {"schedule": dynamic_dropout.suggest(trial), "training": {"dropout_rule": rule}}
