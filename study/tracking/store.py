"""A study's experiment in MLflow: what sends events to it. Sending the same again changes nothing."""

import json
import time
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from study.base.names import NUMBER, OUTCOME, PARENT, PARENT_RUN, REASON, ROLE, RUN_NAME, Key, Role
from study.records.storage import Storage
from study.tracking import view
from study.tracking.client import connect
from study.tracking.local_store import artifact_location
from study.tracking.reader import search_runs
from study.tracking.spool import Event, TooEarlyError, UselessError

METRICS_AT_ONCE = 1000
"""MLflow's limit."""
HOPELESS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST")


class StudyStore:
    """The runs of a study in its experiment, which no one else writes.

    `runs` maps a trial's number to its run id, as far as known; `experiment_id` is None until the store has answered.
    """

    def __init__(self, uri: str, experiment: str, root: Path, storage: Storage, parent: Role, child: Role) -> None:
        self._uri, self._experiment, self._root, self._storage = uri, experiment, root.absolute(), storage
        self._parent, self._child = parent, child
        self.runs: dict[Key, str] = {}
        self.experiment_id: str | None = None
        self._deleted: set[Key] = set()
        self._awaited: dict[tuple[Key, int], float] = {}  # since when files of a run at a step are

    @cached_property
    def _client(self) -> MlflowClient:
        return connect(self._uri)  # an embedded store is made now, which takes seconds that no one waits for here

    def ask(self) -> None:
        """Asks the store, once, which runs it has.

        A server that hangs may make a run for each of several requests: of such runs one stays.
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
        parents = search_runs(self._client, experiment_id, self._parent)
        found: dict[Key, list[str]] = {PARENT_RUN: [run.info.run_id for run in parents]} if parents else {}
        for run in search_runs(self._client, experiment_id, self._child):
            tag = run.data.tags[NUMBER[self._child]]
            found.setdefault(int(tag) if self._child is Role.TRIAL else tag, []).append(run.info.run_id)
        for number, run_ids in found.items():
            mine = self.runs.get(number)
            kept = mine if mine in run_ids else min(run_ids)
            for run_id in run_ids:
                if run_id != kept:
                    self._client.delete_run(run_id)
            found[number] = [kept]
        self.runs = {number: run_ids[0] for number, run_ids in found.items()}
        self.experiment_id = experiment_id

    def doubt(self) -> None:
        """Lets the store be asked again: what seemed not to arrive may have arrived."""
        self.experiment_id = None

    def send(self, events: Sequence[Event]) -> None:
        """Sends one event, or several that are metrics and tags of one run.

        Raises:
            UselessError: if the store answers, but never takes this.
            TooEarlyError: if the storage still lacks what is to be sent.
            Exception: whatever a store raises that is away.
        """
        try:
            if events[0]["what"] in ("metrics", "tags"):
                self._send_batch(events)
            else:
                self._send_one(events[0])
        except MlflowException as error:
            if error.error_code not in HOPELESS:
                raise
            before = self.runs.keys()
            self.doubt()
            self.ask()  # raises if it was not the store that refused, but something in front of one that is away
            self._deleted |= before - self.runs.keys()
            raise UselessError(str(error)) from None

    def _send_batch(self, events: Sequence[Event]) -> None:
        run_id = self._run_id(events[0]["trial"], events[0]["time_ms"])
        tags = {key: value for event in events for key, value in event.get("tags", {}).items()}
        history = cache(lambda key: {point.step for point in self._client.get_metric_history(run_id, key)})
        metrics = [
            Metric(key, value, event["time_ms"], event["step"])
            for event in events
            for key, value in event.get("metrics", {}).items()
            if not event.get("unsure") or event["step"] not in history(key)
        ]
        room = METRICS_AT_ONCE - len(tags)
        for first in range(0, max(1, len(metrics)), room):
            self._client.log_batch(run_id, metrics=metrics[first : first + room], tags=_tags(tags))

    def _send_one(self, event: Event) -> None:
        if event["what"] == "start":
            self._send_start(event)
            return
        if event["what"] == "end" and event["trial"] == PARENT_RUN:
            self.doubt()  # a last look for runs that were made twice
        run_id = self._run_id(event["trial"], event["time_ms"])
        if event["what"] == "artifacts":
            self._send_artifacts(run_id, event)
        else:
            self._client.log_batch(run_id, tags=_tags(event["tags"]))
        if event["what"] == "end":
            self._client.set_terminated(run_id, event["status"], event["time_ms"])

    def _send_artifacts(self, run_id: str, event: Event) -> None:
        paths = [self._root / file for file in event["files"]]
        if event.get("step") is not None and self._storage.is_remote:
            self._check_sent(event, paths[0].parent)
        for path in paths:
            if not path.resolve().is_relative_to(self._root.resolve()):
                raise UselessError(f"{path} is not in the study's folder")
            try:
                with self._storage.present(path):
                    if not path.is_file():
                        raise FileNotFoundError
                    self._client.log_artifact(run_id, str(path), event["folder"])
            except FileNotFoundError:
                raise UselessError(f"there is no file {path.name} in {path.parent}") from None

    def _check_sent(self, event: Event, folder: Path) -> None:
        from study.records.expected_files import has_come
        from study.records.uploads import WORKER_SECONDS
        from study.training.run_folder import RunFolder  # imports torch, which a storage that is a folder needs not

        since = self._awaited.setdefault((event["trial"], event["step"]), time.monotonic())
        is_there = has_come(self._storage, RunFolder(folder), event["step"])
        if not is_there and time.monotonic() - since < WORKER_SECONDS:
            raise TooEarlyError

    def _send_start(self, event: Event) -> None:
        number, tags = event["trial"], {RUN_NAME: event["name"], **event["tags"]}
        self.ask()
        if number in self.runs:
            self._client.update_run(self.runs[number], status="RUNNING")
            for tag in {OUTCOME, REASON} & self._client.get_run(self.runs[number]).data.tags.keys():
                self._client.delete_tag(self.runs[number], tag)
        else:
            self._create(number, event["time_ms"], tags)
            tags = {}  # it has them
        params = [Param(key, _text(value)) for key, value in event["params"].items()]
        self._client.log_batch(self.runs[number], params=params, tags=_tags(tags))

    def _run_id(self, number: Key, time_ms: int) -> str:
        """Returns the id of a run; makes it, begun then, if what should have begun it was lost and comes later."""
        self.ask()
        if number in self._deleted:
            raise UselessError("its run was deleted")
        if number not in self.runs:
            self._create(number, time_ms, {})
        return self.runs[number]

    def _create(self, number: Key, time_ms: int, tags: Mapping[str, str]) -> None:
        assert self.experiment_id is not None
        tags = {ROLE: self._parent if number == PARENT_RUN else self._child, **tags}
        if number != PARENT_RUN:
            tags[NUMBER[self._child]] = str(number)
            tags[PARENT] = self._run_id(PARENT_RUN, time_ms)
        run = self._client.create_run(self.experiment_id, start_time=time_ms, tags=tags)
        self.runs[number] = run.info.run_id
        self._deleted.discard(number)


def _tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(key, value) for key, value in tags.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
