"""Describes a study's runs to the process that sends to MLflow what MLflow lacks; training never waits for a server."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from study.base.names import NOTE, PARENT_RUN, Key, Role
from study.records.storage import Storage
from study.tracking.deadline import Deadline, in_seconds
from study.tracking.run_record import RunRecord
from study.tracking.sender_process import Answer, SenderProcess

log = logging.getLogger(__name__)
RETRY_SECONDS = 5.0
LAST_TRY_SECONDS = 10.0
"""The time that is given at the end to a server that has been away for long."""
ROUND_SECONDS = 3.0
"""From one round to the next, unless someone waits: many evaluations go together."""
LOOK_SECONDS = 0.3
"""Between two looks for files that workers still write, if someone waits."""


class StudyWriter:
    """Keeps a study's MLflow experiment up to date: one parent run, and a child run for each other run.

    The caller says how each run should look; a process of its own compares that, and the runs' folders, with MLflow, in
    rounds. Nothing is kept on disk: a later session describes the same runs again. Every method returns at once.
    `runs` has the run ids that are known, by key, and `last_round` what came of the last round.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        root: Path,
        storage: Storage | None = None,
        parent: Role = Role.STUDY,
    ) -> None:
        self._experiment, self._root, self._parent = experiment, root.absolute(), parent
        storage = storage or Storage(str(self._root.parent))
        self._process = SenderProcess(uri, experiment, self._root, storage, parent)
        self.records: dict[Key, RunRecord] = {}
        self._news = threading.Condition()
        self._described: set[Key] = set()  # runs that the process is to be told of, and
        self._changed: dict[Key, int] = {}  # those with new evaluations, with the step of the last
        self._left = 0
        self._in_round = self._failing = False
        self._stop, self._hurried = threading.Event(), threading.Event()
        self._answered = time.monotonic()
        self.last_round: Answer | None = None
        self.runs: Mapping[Key, str] = {}
        self.experiment_id: str | None = None
        self.closed = False
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def describe(self, record: RunRecord) -> None:
        """Says how a run should look; the parent run comes first."""
        with self._news:
            self.records[record.key] = record
            self._described.add(record.key)
            self._news.notify_all()

    def changed(self, key: Key, step: int) -> None:
        """Says that a run has made an evaluation."""
        with self._news:
            self._changed[key] = step
            self._news.notify_all()

    def artifacts(self, key: Key, files: Sequence[Path], folder: str | None = None) -> None:
        """Uploads files, which lie in the study's folder or below it, as they are when they are sent."""
        new = tuple((str(file.relative_to(self._root)), folder) for file in files)  # the study's folder may be moved
        old = tuple(file for file in self.records[key].more_files if file not in new)
        self.describe(replace(self.records[key], more_files=old + new))

    def start_study(self, params: Mapping[str, Any], tags: Mapping[str, str], note: str) -> None:
        """Opens the parent run, anew or again."""
        name = self._experiment if self._parent is Role.STUDY else f"{self._experiment}-{self._parent.value}"
        self.describe(RunRecord(key=PARENT_RUN, name=name, params=params, tags={**tags, NOTE: note}))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs metrics of the parent run, which has no folder."""
        points = tuple((name, step, value) for name, value in metrics.items())
        self.describe(replace(self.records[PARENT_RUN], points=points))

    def end_study(self, status: str) -> None:
        """Closes the parent run."""
        self.describe(replace(self.records[PARENT_RUN], status=status))
        self._hurried.set()  # nothing more is to come

    def patience(self, seconds: float) -> Deadline:
        """Returns until when to wait for a server: until it has been silent for so many seconds."""
        now = time.monotonic()
        return lambda: max(now + LAST_TRY_SECONDS, self._answered + seconds)

    def flush(self, wait: float | Deadline) -> bool:
        """Waits until MLflow has all, for so many seconds at most or until a deadline; False if it lacks something."""
        deadline = wait if callable(wait) else in_seconds(wait)
        self._hurried.set()
        with self._news:
            while self._has_work() and (left := deadline() - time.monotonic()) > 0:
                self._news.wait(min(left, LOOK_SECONDS))
            done = not self._has_work()
        self._hurried.clear()
        return done

    def close(self, wait: float | Deadline) -> bool:
        """Sends what MLflow lacks, as `flush` does; False if something is left to the next session.

        Nothing waits for a request to a server that hangs.
        """
        done = self.flush(wait)
        self._stop.set()
        self._hurried.set()
        self._process.close()
        self.closed = True
        return done

    def _has_work(self) -> bool:
        return bool(self._described or self._changed or self._left or self._in_round)

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._news:
                self._news.wait_for(self._has_work, timeout=0.5)
                if not self._has_work():
                    continue
                records = [self.records[key] for key in sorted(self._described, key=lambda key: key != PARENT_RUN)]
                changed, self._described, self._changed = self._changed, set(), {}
                self._in_round = True
            started = time.monotonic()
            is_well = self._round(records, changed)
            with self._news:
                self._in_round = False
                self._news.notify_all()
            if not is_well:
                self._stop.wait(RETRY_SECONDS)
            elif self._hurried.wait(started + ROUND_SECONDS - time.monotonic()) and self._left:
                self._stop.wait(LOOK_SECONDS)

    def _round(self, records: Sequence[RunRecord], changed: Mapping[Key, int]) -> bool:
        """Lets the process send; returns whether MLflow answers."""
        try:
            found = self._process.round(records, changed, ROUND_SECONDS)
        except ConnectionError as error:
            with self._news:  # the next process knows of no run
                self._described, self._left = set(self.records), 0
            self._warn_once(str(error))
            return False
        is_done_with_some = found["left"] < max(1, self._left) or bool(records or changed)
        self.last_round, self._left = found, found["left"]
        self.experiment_id = found["experiment_id"] or self.experiment_id
        if found["runs"]:
            self.runs = {**self.runs, **dict(found["runs"])}  # a new dict: others may be reading the old one
        for line in found["refused"]:
            log.warning("MLflow cannot take %s", line)
        if found["error"] is not None:
            self._warn_once(found["error"])
            return False
        if self._failing:
            log.warning("MLflow answers again")
        self._failing = False
        if is_done_with_some:  # else files are awaited, from an object store that may be away for long
            self._answered = time.monotonic()
        return True

    def _warn_once(self, reason: str) -> None:
        if not self._failing and not self._stop.is_set():
            log.warning("MLflow does not answer; what it should have is kept on disk: %s", reason)
        self._failing = True
