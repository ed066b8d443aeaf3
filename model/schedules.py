"""Dropout schedules: the drop probability as a function of training progress, to and from plain dicts."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from model.checks import FromDict, check_integer, check_number, check_points, check_rate, parse


class Schedule(FromDict):
    """The drop probability over a training run.

    `progress` is the share of the steps done, in [0, 1]. Open-loop schedules are pure functions of it; `val_loss`
    listens to the evaluations too, and its state belongs in the checkpoint.
    """

    noun = "schedule"
    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {
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
        "of": lambda name, value: _open_loop(name, value),
    }

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
    return parse("a schedule", Schedule, KINDS, d)


MAX_NESTED = 8


def _open_loop(name: str, value: Any) -> Schedule:
    inner = value
    for _ in range(MAX_NESTED):
        inner = inner.get("of") if isinstance(inner, Mapping) else None
    if inner is not None:
        raise ValueError(f"{name} is nested more than {MAX_NESTED} deep")
    schedule = parse(name, Schedule, KINDS, value)
    if isinstance(schedule, ValLoss):
        raise ValueError(f"{name} must be an open-loop schedule, got val_loss: give its recorded rates as piecewise")
    return schedule
