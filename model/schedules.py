"""Dropout schedules: the drop probability as a function of training progress, to and from plain dicts."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, ClassVar

from model.checks import check_integer, check_number, check_points, check_rate, short


class Schedule:
    """The drop probability over a training run.

    `progress` is the share of the steps done, in [0, 1]. Open-loop schedules are pure functions of it; `val_loss`
    listens to the evaluations too, and its state belongs in the checkpoint.
    """

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        for attribute, name in _parameters(type(self)):
            checked = _CHECKS[name](f"{name} of a {self.kind} schedule", getattr(self, attribute))
            object.__setattr__(self, attribute, checked)

    def rate(self, progress: float) -> float:
        """Returns the drop probability, in [0, 1), at `progress`."""
        raise NotImplementedError

    def observe(self, val_loss: float) -> None:
        """Receives the result of one evaluation; an open-loop schedule ignores it."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state that changes during training, as plain numbers; empty for an open-loop schedule."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the plain dict from which `from_dict` makes an equal schedule."""
        values = {name: getattr(self, attribute) for attribute, name in _parameters(type(self))}
        return {"kind": self.kind} | {name: _PLAIN.get(name, lambda v: v)(v) for name, v in values.items()}


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate throughout."""

    kind = "constant"
    value: float = field(metadata={"name": "rate"})  # `rate` is the method that every schedule has

    def rate(self, progress: float) -> float:
        return self.value


@dataclass(frozen=True)
class Linear(Schedule):
    """From `initial_rate` to `final_rate` in a straight line."""

    kind = "linear"
    initial_rate: float
    final_rate: float

    def rate(self, progress: float) -> float:
        return self.initial_rate * (1 - progress) + self.final_rate * progress


@dataclass(frozen=True)
class Exponential(Schedule):
    """From `initial_rate` towards `final_rate`; at the end exp(-decay) of the way is left.

    Final 0 with decay ln(p0/pf) is Yan & Shao's p0 (pf/p0)^progress (2024); initial 0 with decay 10 is Morerio et
    al.'s curriculum dropout (2017).
    """

    kind = "exponential"
    initial_rate: float
    final_rate: float
    decay: float

    def rate(self, progress: float) -> float:
        left = math.exp(-self.decay * progress)
        return self.final_rate * (1 - left) + self.initial_rate * left


@dataclass(frozen=True)
class Cosine(Schedule):
    """From `initial_rate` to `final_rate` along half a cosine: slow, fast, slow."""

    kind = "cosine"
    initial_rate: float
    final_rate: float

    def rate(self, progress: float) -> float:
        left = (1 + math.cos(math.pi * progress)) / 2
        return self.final_rate * (1 - left) + self.initial_rate * left


@dataclass(frozen=True)
class Early(Schedule):
    """Falls linearly from `peak_rate` to 0 at `cutoff`, a share of training, then stays 0 (Liu et al. 2023)."""

    kind = "early"
    peak_rate: float
    cutoff: float

    def rate(self, progress: float) -> float:
        return self.peak_rate * max(0.0, 1 - progress / self.cutoff)


@dataclass(frozen=True)
class Late(Schedule):
    """0 before `cutoff`, a share of training, and `peak_rate` from it on (Liu et al. 2023)."""

    kind = "late"
    peak_rate: float
    cutoff: float

    def rate(self, progress: float) -> float:
        return self.peak_rate if progress >= self.cutoff else 0.0


@dataclass(frozen=True)
class Piecewise(Schedule):
    """Straight lines between `points`, given as (progress, rate), and constant outside them."""

    kind = "piecewise"
    points: tuple[tuple[float, float], ...]

    def rate(self, progress: float) -> float:
        if progress <= self.points[0][0]:
            return self.points[0][1]
        for (left, rate), (right, next_rate) in pairwise(self.points):
            if progress <= right:
                share = (progress - left) / (right - left)
                return rate * (1 - share) + next_rate * share
        return self.points[-1][1]


@dataclass(frozen=True)
class Reversed(Schedule):
    """The open-loop schedule `of`, run backwards in time."""

    kind = "reversed"
    of: Schedule

    def rate(self, progress: float) -> float:
        return self.of.rate(1 - progress)


@dataclass
class ValLossState:
    """The state of a `val_loss` schedule: the best loss, the evaluations since without improvement, the rate."""

    best: float | None
    count: int
    rate: float


@dataclass(frozen=True)
class ValLoss(Schedule):
    """Steered by the validation loss: improvement moves the rate towards `final_rate`, and its absence moves it back.

    The first evaluation only sets the best. One that is below the best by more than `min_delta` becomes the best and
    multiplies the distance to `final_rate` by `factor`; `patience` evaluations in a row that are not multiply the
    distance to `initial_rate` by it. A loss that is NaN is never better.
    """

    kind = "val_loss"
    initial_rate: float
    final_rate: float
    factor: float
    patience: int
    min_delta: float
    state: ValLossState = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "state", ValLossState(best=None, count=0, rate=self.initial_rate))

    def rate(self, progress: float) -> float:
        return self.state.rate

    def observe(self, val_loss: float) -> None:
        state = self.state
        if state.best is None:
            state.best = math.inf if math.isnan(val_loss) else val_loss
        elif val_loss < state.best - self.min_delta:
            state.best, state.count = val_loss, 0
            state.rate = self.final_rate + (state.rate - self.final_rate) * self.factor
        else:
            state.count += 1
            if state.count == self.patience:
                state.count = 0
                state.rate = self.initial_rate + (state.rate - self.initial_rate) * self.factor

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.state.best, "count": self.state.count, "rate": self.state.rate}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state.best, self.state.count, self.state.rate = state["best"], state["count"], state["rate"]


KINDS: dict[str, type[Schedule]] = {
    c.kind: c for c in (Constant, Linear, Exponential, Cosine, Early, Late, Piecewise, Reversed, ValLoss)
}


def from_dict(d: Mapping[str, Any]) -> Schedule:
    """Makes a schedule from `kind` and its parameters.

    Raises:
        ValueError: names what was given, if the kind is unknown, a parameter is missing, unknown or out of range.
    """
    return _from_dict("a schedule", d)


def _from_dict(name: str, d: Any, nested: int = 0) -> Schedule:
    if isinstance(d, Schedule):
        return d
    if not isinstance(d, Mapping):
        raise ValueError(f"{name} must be a mapping with a kind and its parameters, got {short(d)}")
    kind = d.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"kind of {name} must be one of {', '.join(KINDS)}, got {short(kind)}")
    attributes = {parameter: attribute for attribute, parameter in _parameters(KINDS[kind])}
    given = {key: value for key, value in d.items() if key != "kind"}
    if unknown := [key for key in given if key not in attributes]:
        raise ValueError(f"a {kind} schedule has no parameter {short(unknown[0])}: it takes {', '.join(attributes)}")
    if missing := [parameter for parameter in attributes if parameter not in given]:
        raise ValueError(f"a {kind} schedule needs {', '.join(missing)} too, got {short(dict(d))}")
    if "of" in given:
        given["of"] = _open_loop("of of a reversed schedule", given["of"], nested + 1)
    return KINDS[kind](**{attributes[parameter]: value for parameter, value in given.items()})


def _parameters(cls: type[Schedule]) -> Iterator[tuple[str, str]]:
    """Yields each parameter as (attribute, name in dicts and files)."""
    for f in fields(cls):  # type: ignore[arg-type]  # every kind is a dataclass
        if f.init:
            yield f.name, f.metadata.get("name", f.name)


def _open_loop(name: str, value: Any, nested: int = 0) -> Schedule:
    if nested > 8:
        raise ValueError(f"{name} is nested more than 8 deep")
    schedule = _from_dict(name, value, nested)
    if isinstance(schedule, ValLoss):
        raise ValueError(f"{name} must be an open-loop schedule, got val_loss: give its recorded rates as piecewise")
    return schedule


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "rate": check_rate,
    "initial_rate": check_rate,
    "final_rate": check_rate,
    "peak_rate": check_rate,
    "decay": lambda name, value: check_number(name, value, "above 0", lambda x: x > 0),
    "cutoff": lambda name, value: check_number(name, value, "in (0, 1]", lambda x: 0 < x <= 1),
    "factor": lambda name, value: check_number(name, value, "in (0, 1)", lambda x: 0 < x < 1),
    "min_delta": lambda name, value: check_number(name, value, "of at least 0", lambda x: x >= 0),
    "patience": lambda name, value: check_integer(name, value, minimum=1),
    "points": check_points,
    "of": _open_loop,
}
_PLAIN: dict[str, Callable[[Any], Any]] = {
    "points": lambda points: [list(point) for point in points],
    "of": lambda schedule: schedule.to_dict(),
}
