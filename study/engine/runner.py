"""Runs the trials of a study through Ray Tune, until all have ended, the time is over, or someone stops it."""

import logging
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray import tune

from study.base.signals import ending_signals
from study.engine.cluster import Slots
from study.engine.early_stopping import InOrder, SparingASHA
from study.engine.searcher import RunSearcher
from study.engine.worker_messages import CHECKPOINT_STEP

WORKER_DEATHS = 3
"""A trial whose worker dies so often without a new checkpoint fails."""
log = logging.getLogger(__name__)
for _name in ("ray.tune", "ray.train"):  # what does not go well is said once, by us, and in a line
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class Stop(tune.Stopper):
    """Ends a study before its last trial: when its time is over, or after Ctrl-C or SIGTERM."""

    def __init__(self, time_budget: float | None) -> None:
        self._deadline = None if time_budget is None else time.monotonic() + time_budget
        self._interrupted = math.inf  # when, by `time.monotonic`
        self.searcher: RunSearcher | None = None

    @property
    def interrupted(self) -> bool:
        """Whether someone wishes the study to end."""
        return self._interrupted < math.inf

    def shortened(self, deadline: Callable[[], float], seconds: float) -> Callable[[], float]:
        """Returns a deadline, by `time.monotonic`, or so many seconds from now once someone wishes the end."""
        now = time.monotonic()
        return lambda: min(deadline(), max(now, self._interrupted) + seconds)

    @property
    def out_of_time(self) -> bool:
        """Whether the time budget is used up."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stops no single trial: that is the scheduler's."""
        return False

    def stop_all(self) -> bool:
        """Returns whether all trials are to be stopped now."""
        broken = self.searcher is not None and self.searcher.broken is not None
        return broken or self.interrupted or self.out_of_time

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Takes the first signal as a wish to end in good order, and the second as an order to end at once.

        A closed terminal is no order: its SIGHUP comes from the shell and from the kernel.
        """

        def interrupt(signum: int, frame: FrameType | None) -> None:
            if self.interrupted and signum != signal.SIGHUP:
                os._exit(130)
            self._interrupted = min(self._interrupted, time.monotonic())

        previous = {s: signal.signal(s, interrupt) for s in ending_signals()}
        try:
            yield
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)


class Deaths(tune.Callback):
    """Watches the deaths of workers: says each, counts them anew from each new checkpoint, and tells of the last.

    When the study is to stop it kills them itself: Tune would wait for their next evaluation, and none has more to say.
    """

    def __init__(self, searcher: RunSearcher, stop: Stop) -> None:
        self._searcher, self._stop = searcher, stop
        self._workers: dict[str, Any] = {}  # by Tune's trial id, as are
        self._checkpoints: dict[str, int] = {}  # the newest steps

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Takes a trial that a worker begins, or goes on with."""
        self._workers[trial.trial_id] = trial.temporary_state.ray_actor

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Looks whether the study is to stop."""
        if self._stop.stop_all():
            for worker in self._workers.values():
                ray.kill(worker)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Takes a result that says which checkpoint is the newest."""
        step = result.get(CHECKPOINT_STEP, -1)
        if step > self._checkpoints.get(trial.trial_id, -1):
            self._checkpoints[trial.trial_id] = step
            trial.max_failures = trial.num_failures + WORKER_DEATHS - 1

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Takes a death after which the trial goes on."""
        if not self._stop.stop_all():
            title = trial.config["spec"].title
            log.warning("%s: its worker died: another one goes on from the last checkpoint", title)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Takes the last death."""
        if self._stop.stop_all():
            return
        if trial.should_recover():  # Tune has heard of one death twice, and gives up what it has just begun again
            title = trial.config["spec"].title
            log.warning("%s: its worker died: it is begun again from the last checkpoint", title)
            self._searcher.on_trial_lost(trial.trial_id)
            return
        known = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else "nothing is known of it"
        self._searcher.on_trial_error(trial.trial_id, known)


def run_trials(
    searcher: RunSearcher,
    scheduler: SparingASHA | None,
    trial: type | Callable[[dict[str, Any]], None],
    slots: Slots,
    stop: Stop,
    folder: Path,
) -> None:
    """Runs what the searcher gives, as many at once as it lets. Ray's own files, in `folder`, do not outlive it.

    `trial` is what Tune runs for each, given its config. Raises whatever keeps the study from going on.
    """
    stop.searcher = searcher
    searcher.is_over = stop.stop_all
    tuner = tune.Tuner(
        tune.with_resources(trial, slots.resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler or InOrder(),  # type: ignore[no-untyped-call]
            num_samples=-1,  # the searcher knows when it is over: a trial may have to be begun again
            reuse_actors=True,  # a new process for every trial would import torch for seconds
            trial_name_creator=_trial_id,
            trial_dirname_creator=_trial_id,
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            verbose=0,
            stop=stop,
            failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS - 1),
            callbacks=[Deaths(searcher, stop)],
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if searcher.broken is not None:  # the reason for whatever Tune may have raised, too
            raise searcher.broken


def _trial_id(trial: Any) -> str:
    name: str = trial.trial_id
    return name
