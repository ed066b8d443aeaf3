"""The search spaces: each is a function of an Optuna trial that returns a schedule's dict, or a regularizer's.

A study tries a space's `KNOWN_GOOD` configurations, given by name, first and never stops them early. `EQUAL_SHARES`
names a categorical parameter and its values: each value gets as many trials as the others, and early stopping compares
only trials that have the same value.
"""

from collections.abc import Callable, Mapping
from typing import Any

import optuna

from search_spaces import constant, controls, curriculum, dynamic_dropout, families, sentences, structured, supernet

SPACES: dict[str, Callable[[optuna.Trial], dict[str, Any]]] = {
    "dynamic_dropout": dynamic_dropout.suggest,
    "constant": constant.suggest,
    "controls": controls.suggest,
    "curriculum": curriculum.suggest,
    "structured": structured.suggest,
    "families": families.suggest,
    "sentences": sentences.suggest,
    "supernet": supernet.suggest,
}
KNOWN_GOOD: dict[str, Mapping[str, dict[str, Any]]] = {
    "dynamic_dropout": dynamic_dropout.KNOWN_GOOD,
    "constant": constant.KNOWN_GOOD,
    "controls": controls.KNOWN_GOOD,
    "curriculum": curriculum.KNOWN_GOOD,
    "structured": structured.KNOWN_GOOD,
    "families": families.KNOWN_GOOD,
    "sentences": sentences.KNOWN_GOOD,
    "supernet": supernet.KNOWN_GOOD,
}
EQUAL_SHARES: dict[str, tuple[str, tuple[str, ...]]] = {
    "curriculum": curriculum.EQUAL_SHARES,
    "structured": structured.EQUAL_SHARES,
    "families": families.EQUAL_SHARES,
    "sentences": sentences.EQUAL_SHARES,
    "supernet": supernet.EQUAL_SHARES,
}
