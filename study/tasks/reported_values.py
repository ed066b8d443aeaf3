"""The numbers that a task reports: each becomes a float, or is refused."""

import math
import posixpath
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from model.checks import short
from study.base.errors import DivergenceError, UserError
from study.training.evaluation_rows import METRICS
from study.training.measures_file import MEASURED
from study.training.progress import Progress

MAX_NAME = 250
"""Characters, as MLflow has it; so are the names that it takes."""
_NAME = re.compile(r"[\w.\- :/]+")
_TAKEN = {*METRICS, *MEASURED, *(f.name for f in fields(Progress))}


def loss(name: str, value: Any, step: int) -> float:
    """Returns a loss. Raises DivergenceError if it is None, NaN or infinite, and UserError if it is no number."""
    number = math.nan if value is None else _number(name, value)
    if not math.isfinite(number):
        raise DivergenceError(f"{name} is {value if value is None else number} at step {step}")
    return number


def metrics(given: Mapping[str, Any], step: int) -> dict[str, float]:
    """Returns a task's other numbers. Raises UserError for a name or a number that cannot be logged."""
    found = {}
    for name, value in given.items():
        path = posixpath.normpath(name)
        if not _NAME.fullmatch(name) or len(name) > MAX_NAME or path != name or path.startswith(("/", "..")):
            raise UserError(
                f"run.report: MLflow takes no metric of the name {short(name)}: use letters, digits and _ (at most "
                f"{MAX_NAME} characters)"
            )
        if name in _TAKEN:
            raise UserError(f"run.report: {name} has a meaning of its own: give the metric another name")
        found[name] = _number(name, value)
        if not math.isfinite(found[name]):
            raise UserError(f"run.report: {name} is {found[name]} at step {step}: give a number, or leave it out")
    return found


def _number(name: str, value: Any) -> float:
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        value = value.item() if math.prod(value.shape) == 1 else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"run.report: {name} must be a number, got {short(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf
