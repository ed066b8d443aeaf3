"""Runs the trials of a study through Ray Tune, until all have ended, the time is over, or someone stops it."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from study.cluster import Slots

from ray import tune  # isort: skip  # after study.cluster has set what Ray reads

from study.early_stopping import SparingASHA
from study.searcher import StudySearcher
from study.trial import Job, run_trial

WORKER_DEATHS = 3
"""How often a trial whose worker died is started again."""


class Stop(tune.Stopper):
    """Ends a study before its last trial: when its time is over, or after Ctrl-C or SIGTERM."""

    def __init__(self, time_budget: float | None) -> None:
        self._deadline = None if time_budget is None else time.monotonic() + time_budget
        self.interrupted = False

    @property
    def out_of_time(self) -> bool:
        """Whether the time budget is used up."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stops no single trial: that is the scheduler's."""
        return False

    def stop_all(self) -> bool:
        """Returns whether all trials are to be stopped now."""
        return self.interrupted or self.out_of_time

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Takes the first Ctrl-C or SIGTERM as a wish to end in good order, and the second as an order."""

        def interrupt(signum: int, frame: FrameType | None) -> None:
            if self.interrupted:
                os._exit(130)
            self.interrupted = True

        previous = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)


def run_trials(
    searcher: StudySearcher,
    scheduler: SparingASHA | None,
    job: Job,
    slots: Slots,
    trials: int,
    stop: Stop,
    folder: Path,
) -> None:
    """Runs `trials` trials, as many at once as there are slots. Ray's own files, in `folder`, do not outlive it."""
    trainable = tune.with_resources(tune.with_parameters(run_trial, job=job), slots.resources)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=trials,
            max_concurrent_trials=slots.count,
            reuse_actors=True,  # a new process for every trial would import torch for seconds
            trial_name_creator=_trial_id,
            trial_dirname_creator=_trial_id,
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            verbose=0,
            stop=stop,
            failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS),
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _trial_id(trial: Any) -> str:
    name: str = trial.trial_id
    return name
