"""The search spaces: each is a function of an Optuna trial that returns a schedule's dict.

A study tries a space's `KNOWN_GOOD` configurations, given by name, first and never stops them early.
"""

from collections.abc import Callable, Mapping
from typing import Any

import optuna

from search_spaces import constant, controls, dynamic_dropout

SPACES: dict[str, Callable[[optuna.Trial], dict[str, Any]]] = {
    "dynamic_dropout": dynamic_dropout.suggest,
    "constant": constant.suggest,
    "controls": controls.suggest,
}
KNOWN_GOOD: dict[str, Mapping[str, dict[str, Any]]] = {
    "dynamic_dropout": dynamic_dropout.KNOWN_GOOD,
    "constant": constant.KNOWN_GOOD,
    "controls": controls.KNOWN_GOOD,
}
