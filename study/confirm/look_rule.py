"""The course of a confirmation over its looks: which arms are decided, and which are still in question.

All functions work on many studies at once, so that `study.confirm --power` and the tests simulate the code that judges.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from study.confirm.moderated_test import Array, moderate
from study.confirm.statistics import holm_adjusted


class State(IntEnum):
    """What is known about an arm. All but OPEN are final: the arm gets no more runs."""

    OPEN = 0
    BETTER = 1
    WORSE = 2
    EXCLUDED = 3
    """A gain that matters is excluded, and it is not worse by as much on average: it is hardly different."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """Where studies stand after a look; arrays have the shape (studies, arms), without the baseline.

    Attributes:
        state: a State.
        excluded: whether a look has excluded a gain that matters. A clearly worse arm stays open until that is shown.
        mean: the arm's mean difference from the baseline when it last ran, in nats; below 0 is better.
        half_width: of its interval at that look, in nats.
        p: its p-value at the last look in which it ran; NaN if no test was possible.
        p_looks: the least p-value of its looks, each divided by the share of its look.
        p_holm: the same, adjusted for the number of arms.
    """

    state: NDArray[np.int64]
    excluded: NDArray[np.bool_]
    mean: Array
    half_width: Array
    p: Array
    p_looks: Array
    p_holm: Array


def begin(studies: int, arms: int) -> Course:
    """Returns the course before the first look."""
    unknown, one = np.full((studies, arms), np.nan), np.ones((studies, arms))
    state = np.full((studies, arms), State.OPEN, dtype=np.int64)
    none = np.zeros((studies, arms), dtype=bool)
    return Course(state=state, excluded=none, mean=unknown, half_width=unknown, p=unknown, p_looks=one, p_holm=one)


def look(
    course: Course, losses: Array, share: float, alpha: float, smallest: Array, running: NDArray[np.bool_] | None = None
) -> Course:
    """Judges the arms in question once more.

    An arm is better or worse if its p-value, adjusted for looks and arms, is below `alpha`. A gain of `smallest` or
    more is excluded if the interval at level `alpha` times `share` does not reach it. These final decisions err at most
    as often as `alpha` says whatever else makes arms leave.

    Args:
        losses: (studies, 1 + arms, seeds), the baseline first, with all seeds up to this look; losses of decided arms
            are not read. NaN where a run has failed, which only a single study may have.
        share: of the error rate, for this look.
        smallest: (studies,), the smallest gain that matters, in nats.
        running: (studies,), the studies that this look changes; None for all.
    """
    course = Course(**{name: values.copy() for name, values in vars(course).items()})
    asked = (course.state == State.OPEN) & (np.True_ if running is None else running[:, None])
    many = asked.sum(1)
    for count in np.unique(many[many > 0]):  # studies with equally many arms are one array
        rows = np.flatnonzero(many == count)[:, None]
        arms = np.nonzero(asked[rows[:, 0]])[1].reshape(-1, count)
        with_baseline = np.concatenate([np.zeros_like(rows), arms + 1], axis=1)
        found = moderate(losses[rows, with_baseline])
        course.mean[rows, arms], course.p[rows, arms] = found.mean, found.p
        course.half_width[rows, arms] = found.half_width(alpha * share)
    course.p_looks[asked] = np.fmin(course.p_looks, course.p / share)[asked]
    course.p_holm[:] = holm_adjusted(course.p_looks)
    course.excluded[asked & (course.mean - course.half_width > -smallest[:, None])] = True
    course.state[asked & course.excluded & (course.mean < smallest[:, None])] = State.EXCLUDED
    shown = asked & (course.p_holm < alpha)
    course.state[shown & (course.mean < 0)] = State.BETTER
    course.state[shown & (course.mean > 0)] = State.WORSE
    return course


def is_answered(course: Course, candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each study is answered: a candidate is shown to be better, or none can have a gain that matters.

    Args:
        candidates: (arms,), the arms whose rate changes.
    """
    state, excluded = course.state[:, candidates], course.excluded[:, candidates]
    return np.asarray((state == State.BETTER).any(1) | ((state != State.OPEN) | excluded).all(1))
