"""Checks of single values, and the parser of dicts: each returns a value, or raises a ValueError that names it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from itertools import pairwise
from reprlib import Repr
from typing import Any, ClassVar, TypeVar


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


def check_bool(name: str, value: Any) -> bool:
    """Returns a bool."""
    if isinstance(value, bool):
        return value
    raise ValueError(f"{name} must be true or false, got {short(value)}")


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """Returns one of the words that are allowed."""
    if isinstance(value, str) and value in allowed:
        return value
    hint = " (YAML takes off and no for false)" if value is False else ""
    raise ValueError(f"{name} must be {' or '.join(allowed)}, got {short(value)}{hint}")


class FromDict:
    """Base of frozen dataclasses that are a dict in files: `kind` and the parameters, which are their fields.

    A field's metadata may give its `name` in dicts, and `omitted`: to leave it out of dicts at its default.

    Attributes:
        kind: the name of the subclass.
        noun: what the subclasses are kinds of.
        checks: the check of each parameter, by its name in dicts.
    """

    kind: ClassVar[str]
    noun: ClassVar[str]
    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]]

    def __post_init__(self) -> None:
        for name, f in parameters(type(self)):
            checked = self.checks[name](f"{name} of {_a(self.kind)} {self.noun}", getattr(self, f.name))
            object.__setattr__(self, f.name, checked)

    def to_dict(self) -> dict[str, Any]:
        """Returns the plain dict from which an equal object can be made; equal objects give equal dicts."""
        values = {
            name: getattr(self, f.name)
            for name, f in parameters(type(self))
            if not (f.metadata.get("omitted") and getattr(self, f.name) == f.default)
        }
        return {"kind": self.kind} | {name: _plain(value) for name, value in values.items()}


T = TypeVar("T", bound=FromDict)


def parameters(cls: type[FromDict]) -> Iterator[tuple[str, "Field[Any]"]]:
    """Yields each parameter's name in dicts, and its field."""
    for f in fields(cls):  # type: ignore[arg-type]  # every kind is a dataclass
        if f.init:
            yield f.metadata.get("name", f.name), f


def parse(name: str, base: type[T], kinds: Mapping[str, type[T]], d: Any) -> T:
    """Makes an object from `kind` and its parameters; an object of `base` stays what it is.

    Args:
        name: what `d` is, for the error line.

    Raises:
        ValueError: names what was given, if the kind is unknown, a parameter is missing, unknown or out of range.
    """
    if isinstance(d, base):
        return d
    if not isinstance(d, Mapping):
        raise ValueError(f"{name} must be a mapping with a kind and its parameters, got {short(d)}")
    kind = d.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"kind of {name} must be one of {', '.join(kinds)}, got {short(kind)}")
    known = dict(parameters(kinds[kind]))
    given = {key: value for key, value in d.items() if key != "kind"}
    if unknown := [key for key in given if key not in known]:
        takes = ", ".join(known) or "none"
        raise ValueError(f"{_a(kind)} {base.noun} has no parameter {short(unknown[0])}: it takes {takes}")
    if missing := [key for key, f in known.items() if f.default is MISSING and key not in given]:
        raise ValueError(f"{_a(kind)} {base.noun} needs {', '.join(missing)} too, got {short(dict(d))}")
    return kinds[kind](**{known[key].name: value for key, value in given.items()})


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _plain(value: Any) -> Any:
    if isinstance(value, FromDict):
        return value.to_dict()
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
