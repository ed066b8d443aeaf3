"""The space `supernet`: which size gets which dropout rate, beside the schedules of the default space."""

from typing import Any

import optuna

from model.size import KINDS
from search_spaces import dynamic_dropout

RULES = tuple(KINDS)
EQUAL_SHARES = ("size_rule", RULES)
KNOWN_GOOD: dict[str, dict[str, Any]] = {
    f"{name}, {rule}": {"size_rule": rule} | dynamic_dropout.KNOWN_GOOD[name]
    for name in ("constant 0.2", "linear 0.2 to 0")
    for rule in RULES
} | {"no dropout": {"size_rule": "width"} | dynamic_dropout.KNOWN_GOOD["no dropout"]}


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Returns a schedule of the default space, and the rule by which the sizes of a supernet follow it."""
    rule = trial.suggest_categorical("size_rule", RULES)
    return {"schedule": dynamic_dropout.suggest(trial), "size_rule": {"kind": rule}}
