"""Checks of single values: each returns the value, or raises a ValueError that names what was given."""

import math
from collections.abc import Callable
from itertools import pairwise
from reprlib import Repr
from typing import Any


class _Short(Repr):
    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # Python prints no integer of more than 4,300 digits
            return f"an integer of {x.bit_length()} bits"


short = _Short().repr
"""Returns a value's repr, cut so that it fits into an error line."""


def check_number(name: str, value: Any, allowed: str, accept: Callable[[float], bool]) -> float:
    """Returns a finite number that `accept` takes; `allowed` says in words which those are. A bool is no number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number) and accept(number):
            return number
    hint = " (YAML takes 1.0e-3 for a number, and 1e-3 for text)" if isinstance(value, str) else ""
    raise ValueError(f"{name} must be a number {allowed}, got {short(value)}{hint}")


def check_integer(name: str, value: Any, minimum: int) -> int:
    """Returns a whole number of at least `minimum`, and at most 2^31 - 1: more is a mistake everywhere here."""
    if isinstance(value, int) and not isinstance(value, bool) and minimum <= value < 2**31:
        return value
    raise ValueError(f"{name} must be a whole number of at least {minimum} and below 2^31, got {short(value)}")


def check_rate(name: str, value: Any) -> float:
    """Returns a drop probability."""
    return check_number(name, value, "in [0, 1)", lambda x: 0 <= x < 1)


def check_points(name: str, value: Any) -> tuple[tuple[float, float], ...]:
    """Returns (progress, rate) pairs, at least one, with progress in [0, 1] rising strictly."""
    if (
        not isinstance(value, list | tuple)
        or not value
        or not all(isinstance(point, list | tuple) and len(point) == 2 for point in value)
    ):
        raise ValueError(f"{name} must be a list of [progress, rate], at least one, got {short(value)}")
    points = tuple(
        (
            check_number(f"progress in {name}", progress, "in [0, 1]", lambda x: 0 <= x <= 1),
            check_rate(f"rate in {name}", rate),
        )
        for progress, rate in value
    )
    if any(left >= right for (left, _), (right, _) in pairwise(points)):
        raise ValueError(f"progress in {name} must rise strictly, got {short(value)}")
    return points
