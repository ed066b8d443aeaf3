"""Timing that a noisy machine cannot tip: contestants take turns, and what counts is the median over the rounds."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

Seconds = dict[str, list[float]]


def in_turn(contestants: Mapping[str, Callable[[], object]], rounds: int, repeats: int = 1) -> Seconds:
    """Returns the seconds of one call of each contestant, in every round.

    Each is called once before, to warm up. Every other round goes backwards, so that no one always follows the same.
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
    """Returns the median over the rounds of one contestant's time over another's in the same round."""
    return median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
