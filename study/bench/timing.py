"""Timing on a noisy machine: contestants take turns, and the median over the rounds counts."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

Seconds = dict[str, list[float]]


def in_turn(contestants: Mapping[str, Callable[[], object]], rounds: int, repeats: int = 1) -> Seconds:
    """Returns the seconds of one call of each contestant in every round.

    One call of each comes first, to warm up. Every other round runs backwards, so that no contestant always follows
    the same one.
    """
    for call in contestants.values():
        call()
    seconds: Seconds = {name: [] for name in contestants}
    for i in range(rounds):
        for name in list(contestants)[:: 1 if i % 2 == 0 else -1]:
            _wait()
            started = time.perf_counter()
            for _ in range(repeats):
                contestants[name]()
            _wait()
            seconds[name].append((time.perf_counter() - started) / repeats)
    return seconds


def ratio(seconds: Seconds, name: str, other: str) -> float:
    """Returns the median over the rounds of the ratio of two contestants' times in the same round."""
    return median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
