"""The seconds of training, without those of evaluation."""

import time

import torch


class TrainingClock:
    """Counts while it runs; on a GPU it waits for the device before it stops.

    Attributes:
        seconds: of training.
        evaluation_seconds: the longest time between a stop for an evaluation and its report; None before the first.
    """

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._device = device
        self.seconds = seconds
        self.evaluation_seconds: float | None = None
        self._started: float | None = None
        self._evaluates_since: float | None = None

    def start(self) -> None:
        """Counts from now on; ends an evaluation."""
        now = time.perf_counter()
        if self._evaluates_since is not None:
            self.evaluation_seconds = max(self.evaluation_seconds or 0.0, now - self._evaluates_since)
            self._evaluates_since = None
        self._started = now

    def stop(self, *, for_evaluation: bool = False) -> None:
        """Counts no more until `start`."""
        if self._started is None:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds += now - self._started
        self._started = None
        self._evaluates_since = now if for_evaluation else None
