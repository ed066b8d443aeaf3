"""Compares how runs should look with what MLflow has of them, and sends what MLflow lacks."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Param, RunTag
from mlflow.exceptions import MlflowException

from study.base.names import NUMBER, PARENT, PARENT_RUN, ROLE, RUN_NAME, Key, Role, role_of
from study.base.uris import redacted
from study.records.storage import Storage
from study.tracking import view
from study.tracking.client import connect
from study.tracking.experiment import find_runs
from study.tracking.known_run import KnownRun
from study.tracking.local_store import artifact_location
from study.tracking.run_points import Point, RunPoints
from study.tracking.run_record import RUNNING, Artifact, RunRecord

METRICS_AT_ONCE = 1000
"""MLflow's limit."""
WORKER_SECONDS = 60.0
"""For so long an evaluation that a worker has reported may be missing from an object store."""
HOPELESS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST")


class _DeletedError(Exception):
    """Someone has deleted a run, which stays deleted."""


class _TooEarlyError(Exception):
    """The object store still lacks a file, or does not answer."""


class MLflowSender:
    """The runs of a study in its experiment, which no other process writes.

    A round costs as much as has changed since the last. If MLflow may have more than is known here, MLflow is asked.

    Attributes:
        runs: what MLflow has of each run.
        experiment_id: None until the store has answered.
        refused: lines about what MLflow refuses for good.
        points_sent: how many points were sent, and `latest_s`, how old the oldest of them was by then.
    """

    def __init__(self, uri: str, experiment: str, root: Path, storage: Storage, parent: Role) -> None:
        self._uri, self._experiment, self._root, self._storage = uri, experiment, root.absolute(), storage
        self._parent = parent
        self.runs: dict[Key, KnownRun] = {}
        self.experiment_id: str | None = None
        self.refused: list[str] = []
        self.points_sent, self.latest_s = 0, 0.0
        self._records: dict[Key, RunRecord] = {}
        self._changed: dict[Key, int] = {}  # runs to compare, with the step of the last evaluation that was reported
        self._closing: dict[Key, None] = {}  # runs that were compared and whose files and end are to be sent
        self._late: dict[Key, float] = {}  # since when the object store lacks an evaluation of a run
        self._files: dict[tuple[Key, Artifact], tuple[int, int]] = {}  # the size and time of what was sent
        self._said: set[tuple[Key, str]] = set()
        self._deleted: set[Key] = set()

    @property
    def left(self) -> int:
        """How many runs MLflow may lack something of."""
        return len(self._changed.keys() | self._closing.keys())

    def want(self, records: Iterable[RunRecord], changed: Mapping[Key, int]) -> None:
        """Takes new descriptions of runs, and which runs have new evaluations."""
        for record in records:
            self._records[record.key] = record
            self._changed.setdefault(record.key, -1)
        for key, step in changed.items():
            self._changed[key] = max(step, self._changed.get(key, -1))

    def send(self, seconds: float) -> None:
        """Sends what MLflow lacks, for about so many seconds: metrics first, since files take long.

        Raises:
            Exception: whatever a store raises that is away.
        """
        deadline = time.monotonic() + seconds
        try:
            self._ask()
            for key in list(self._changed):
                if time.monotonic() >= deadline:
                    return
                if self._step(key, self._compare):
                    del self._changed[key]
                    self._closing[key] = None
        except Exception:
            self.experiment_id = None  # what seemed not to arrive may have arrived
            raise
        for key in list(self._closing):
            if time.monotonic() >= deadline:
                return
            if key in self._changed or (self._ends_study(key) and self.left > 1):
                continue
            del self._closing[key]
            done = False
            try:
                done = self._step(key, self._close)
            finally:
                if not done:
                    self._closing[key] = None  # behind the others, which it must not hold up

    @cached_property
    def _client(self) -> MlflowClient:
        return connect(self._uri)  # an embedded store is made now, which takes seconds

    def _ends_study(self, key: Key) -> bool:
        return key == PARENT_RUN and self._records[key].status != RUNNING

    def _step(self, key: Key, work: Any) -> bool:
        """Works on a run; returns whether that is over with."""
        try:
            if key in self._deleted:
                raise _DeletedError
            work(self._records[key])
        except _DeletedError:
            self._refuse(key, "metrics", "the run was deleted")
        except _TooEarlyError:
            return False
        return True

    def _ask(self) -> None:
        """Asks which runs MLflow has, unless that is known.

        A hanging server may create duplicate runs; all but one are deleted.
        """
        if self.experiment_id is not None:
            return
        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment:
            experiment_id = experiment.experiment_id
        else:
            place = artifact_location(self._uri, self._experiment)
            experiment_id = self._client.create_experiment(self._experiment, place)
        self._client.set_experiment_tag(experiment_id, view.TAG, view.view_tag())
        found = find_runs(self._client, experiment_id, self._parent)
        self._deleted = found.deleted
        before, self.runs = self.runs, {}
        for key, runs in found.runs.items():
            mine = [run for run in runs if key in before and run.info.run_id == before[key].run_id]
            kept = (mine or sorted(runs, key=lambda run: run.info.run_id))[0]
            for run in runs:
                if run is not kept:
                    self._client.delete_run(run.info.run_id)
            self.runs[key] = KnownRun(self._client, kept, is_new=False)
        self.experiment_id = experiment_id

    def _compare(self, record: RunRecord) -> None:
        """Makes a run, and sends its params, tags and points, as far as MLflow lacks them."""
        run = self.runs.get(record.key) or self._create(record)
        if _is_closed(record, run):
            return
        if record.status == RUNNING and run.status != RUNNING:
            self._client.update_run(run.run_id, status=RUNNING)
            run.status = RUNNING
            self._set_end_tags(record, run)
        params = [Param(key, _text(value)) for key, value in record.params.items() if key not in run.params]
        tags = {key: value for key, value in _tags_of(record).items() if run.tags.get(key) != value}
        if params or tags:
            with self._unless_refused(record.key, "params and tags"):
                self._client.log_batch(run.run_id, params=params, tags=[RunTag(*tag) for tag in tags.items()])
                run.params |= {param.key for param in params}
                run.tags |= tags
        points, is_there = [Point(*point, _now_ms()) for point in record.points], True
        if record.place is not None:
            run.files = run.files or RunPoints(self._root / record.place, self._storage)
            is_there = run.files.fetch()
            points += run.files.read()
            reported = self._changed[record.key]
            if self._storage.is_remote and run.files.last_step < reported:  # the worker may yet send it
                since = self._late.setdefault(record.key, time.monotonic())
                is_there = is_there and time.monotonic() >= since + WORKER_SECONDS
        metrics = run.lacks(points)
        for first in range(0, len(metrics), METRICS_AT_ONCE):
            with self._unless_refused(record.key, "metrics"):
                self._client.log_batch(run.run_id, metrics=(sent := metrics[first : first + METRICS_AT_ONCE]))
                run.note(sent)
                self.points_sent += len(sent)
                self.latest_s = max(self.latest_s, (_now_ms() - min(metric.timestamp for metric in sent)) / 1000)
        if not is_there:
            raise _TooEarlyError
        self._late.pop(record.key, None)

    def _close(self, record: RunRecord) -> None:
        """Sends a run's files, and its end if it has one."""
        run = self.runs.get(record.key) or self._create(record)
        is_closed = _is_closed(record, run)
        for artifact in (*(() if is_closed else record.closing_files), *record.more_files):
            self._send_file(record.key, artifact)
        if record.status == RUNNING or is_closed:
            return
        if record.key == PARENT_RUN:
            self.experiment_id = None
            self._ask()  # a last look for duplicate runs
            run = self.runs.get(record.key) or self._create(record)
        with self._unless_refused(record.key, "end"):
            self._set_end_tags(record, run)
            ended = max(record.ended_ms or _now_ms(), run.started_ms, run.latest_ms)
            self._client.set_terminated(run.run_id, record.status, ended)
            run.status = record.status
        if record.is_final:
            run.forget_points()

    def _set_end_tags(self, record: RunRecord, run: KnownRun) -> None:
        for tag in run.end_tags.keys() - record.end_tags.keys():
            self._client.delete_tag(run.run_id, tag)
            del run.tags[tag]
        for tag, value in record.end_tags.items():
            self._client.set_tag(run.run_id, tag, value)
            run.tags[tag] = value

    def _send_file(self, key: Key, artifact: Artifact) -> None:
        name, folder = artifact
        path = self._root / name
        if not path.resolve().is_relative_to(self._root.resolve()):
            self._refuse(key, name, f"{path} is not in the study's folder")
            return
        try:
            with self._storage.present(path):
                stat = path.stat()
                signature = stat.st_size, stat.st_mtime_ns
                if self._files.get((key, artifact)) != signature:
                    with self._unless_refused(key, name):
                        self._client.log_artifact(self.runs[key].run_id, str(path), folder)
                        self._files[key, artifact] = signature
        except FileNotFoundError:
            files = self.runs[key].files
            if files is None or files.last_step >= 0:  # else the run failed before it made any
                self._refuse(key, name, f"there is no file {path.name} in {path.parent}")
        except OSError as error:
            if not self._storage.is_remote or error.errno is not None:
                raise
            raise _TooEarlyError from None

    def _create(self, record: RunRecord) -> KnownRun:
        assert self.experiment_id is not None
        tags = {ROLE: self._parent, **_tags_of(record)}
        if record.key != PARENT_RUN:
            parent = self.runs.get(PARENT_RUN) or self._create(self._records[PARENT_RUN])
            child = role_of(record.key, self._parent)
            tags |= {ROLE: child, NUMBER[child]: str(record.key), PARENT: parent.run_id}
        run = self._client.create_run(self.experiment_id, start_time=record.started_ms or _now_ms(), tags=tags)
        self.runs[record.key] = KnownRun(self._client, run, is_new=True)
        return self.runs[record.key]

    @contextmanager
    def _unless_refused(self, key: Key, what: str) -> Iterator[None]:
        """Passes over what MLflow refuses for good; raises what a store raises that is away."""
        try:
            yield
        except MlflowException as error:
            if error.error_code not in HOPELESS:
                raise
            self.experiment_id = None
            self._ask()  # raises if it was not the store that refused, but something in front of one that is away
            if key in self._deleted:
                raise _DeletedError from None
            self._refuse(key, what, redacted((str(error).strip().splitlines() or [type(error).__name__])[0])[:200])

    def _refuse(self, key: Key, what: str, reason: str) -> None:
        if (key, what) not in self._said:
            self._said.add((key, what))
            whose = "the study" if key == PARENT_RUN else f"trial {key}" if isinstance(key, int) else key
            self.refused.append(f"the {what} of {whose}, which is left out: {reason}")


def _is_closed(record: RunRecord, run: KnownRun) -> bool:
    """Whether MLflow has the end of a run, before which all else was sent."""
    return record.is_final and record.status == run.status and record.end_tags == run.end_tags


def _tags_of(record: RunRecord) -> dict[str, str]:
    return {RUN_NAME: record.name, **record.tags}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _now_ms() -> int:
    return int(time.time() * 1000)
