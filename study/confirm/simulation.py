"""Simulated confirmations: how often `--until-decided` shows a difference, and how many runs it needs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.confirm.look_plan import shares
from study.confirm.look_rule import Course, State, begin, is_answered, look
from study.confirm.moderated_test import Array


@dataclass(frozen=True, kw_only=True)
class SimulatedStudies:
    """How simulated studies ended.

    Attributes:
        course: their last state.
        seeds: (studies,), the seeds of the look at which each stopped.
        runs: (studies,), the runs of all arms, without the sweep that chooses the baseline.
    """

    course: Course
    seeds: NDArray[np.int64]
    runs: NDArray[np.int64]


def simulate(
    losses: Array, looks: tuple[int, ...], alpha: float, smallest: float, candidates: NDArray[np.bool_] | None = None
) -> SimulatedStudies:
    """Follows studies over their looks.

    Args:
        losses: (studies, 1 + arms, seeds), the baseline first, with the seeds of the last look.
        smallest: the smallest gain that matters, in nats.
        candidates: (arms,), the arms whose rate changes; None for all.
    """
    studies, arms = losses.shape[0], losses.shape[1] - 1
    candidates = np.ones(arms, dtype=bool) if candidates is None else candidates
    course, running = begin(studies, arms), np.ones(studies, dtype=bool)
    seeds, runs = np.zeros(studies, dtype=np.int64), np.zeros(studies, dtype=np.int64)
    for n, share in zip(looks, shares(looks), strict=True):
        asked = (course.state == State.OPEN).sum(1)
        runs += np.where(running, (asked + 1) * (n - seeds.max()), 0)
        seeds[running] = n
        course = look(course, losses[..., :n], share, alpha, np.full(studies, smallest), running)
        running &= ~is_answered(course, candidates)
    return SimulatedStudies(course=course, seeds=seeds, runs=runs)
