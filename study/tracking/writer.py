"""The one writer to MLflow: a spool on disk first, a thread that sends it; training never waits for a server."""

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from study.tracking import view
from study.tracking.names import NOTE, NUMBER, OUTCOME, PARENT, REASON, ROLE, RUN_NAME, STATUS, Outcome, Role
from study.tracking.reader import search_runs
from study.tracking.spool import Event, Spool, last_sent
from study.uris import redacted

log = logging.getLogger(__name__)
BATCH = 200
RETRY_SECONDS = 5.0
PARENT_RUN = -1
"""Stands for the study's own run where a trial's number is expected."""
Key = int | str
"""A trial's number, or the name of a confirmation's run."""


class StudyWriter:
    """Writes a study into its MLflow experiment: one parent run, one child run a trial.

    Every method returns at once, and raises nothing but the OSError of a full disk. Events carry the time of their
    making, so that sending one twice changes nothing. `runs` maps a trial's number to its run id, as far as known.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment: str,
        spool: Path,
        parent: Role = Role.STUDY,
        child: Role = Role.TRIAL,
    ) -> None:
        self._client, self._experiment = client, experiment
        self._parent, self._child, self._number = parent, child, NUMBER[child]
        self._spool = Spool(spool)
        self._root = spool.parent
        self.runs: dict[Key, str] = {}
        self.experiment_id: str | None = None
        self._stop = threading.Event()
        self._failing = False
        self.closed = False
        self._thread = threading.Thread(target=self._send_all, name="mlflow-writer", daemon=True)
        self._thread.start()

    def start_study(self, params: Mapping[str, Any], tags: Mapping[str, str], note: str) -> None:
        """Opens the parent run, anew or again."""
        name = self._experiment if self._parent is Role.STUDY else f"{self._experiment}-{self._parent.value}"
        self._put(PARENT_RUN, "start", name=name, role=self._parent, params=params, tags={**tags, NOTE: note})

    def start_trial(self, number: Key, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Opens a trial's run, anew or again."""
        self._put(number, "start", name=name, role=self._child, params=params, tags={**tags, self._number: str(number)})

    def log(self, number: Key, step: int, metrics: Mapping[str, float], time_ms: int | None = None) -> None:
        """Logs metrics at a training step; again with the same time changes nothing."""
        self._put(number, "metrics", time_ms, step=step, metrics=metrics)

    def tag(self, number: Key, tags: Mapping[str, str]) -> None:
        """Sets tags of a trial's run."""
        self._put(number, "tags", tags=tags)

    def artifacts(self, number: Key, files: Sequence[Path], folder: str | None = None) -> None:
        """Uploads files, which lie beside the spool or below it, as they are when they are sent."""
        names = [str(file.relative_to(self._root)) for file in files]  # the study's folder may be moved
        self._put(number, "artifacts", files=names, folder=folder)

    def end_trial(self, number: Key, outcome: Outcome, reason: str | None = None) -> None:
        """Closes a trial's run with its outcome."""
        tags = {OUTCOME: outcome.value} | ({REASON: reason[:5000]} if reason else {})
        self._put(number, "end", status=STATUS[outcome], tags=tags)

    def end_study(self, status: str) -> None:
        """Closes the parent run."""
        self._put(PARENT_RUN, "end", status=status, tags={})

    def flush(self, timeout: float) -> bool:
        """Waits for all to be sent, for at most `timeout` seconds; False if some is not."""
        return self._spool.wait_empty(timeout)

    def close(self, timeout: float) -> bool:
        """Sends what is left, for at most `timeout` seconds; False if some is left on disk for the next time."""
        done = self._spool.wait_empty(timeout)
        self._stop.set()
        self._thread.join(timeout=10)
        self._spool.close()
        self.closed = True
        return done

    def _put(self, number: Key, what: str, time_ms: int | None = None, **details: Any) -> None:
        self._spool.put({"what": what, "trial": number, "time_ms": time_ms or int(time.time() * 1000), **details})

    def _send_all(self) -> None:
        while not self._stop.is_set():
            events = self._spool.take(BATCH, timeout=0.5)
            # Metrics of one run go together; everything else alone, so that what MLflow refuses takes nothing with it.
            for _, same in groupby(enumerate(events), key=_group):
                group = [event for _, event in same]
                if not self._sent(group):
                    break
                self._spool.remove(len(group))

    def _sent(self, events: list[Event]) -> bool:
        """Sends events once; True if that is over with, False if they are to be sent again after a pause."""
        try:
            if events[0]["what"] == "metrics":
                self._send_metrics(events)
            else:
                self._send_one(events[0])
        except Exception as error:  # a server that is away, in whichever of its many ways: the events stay on disk
            refused = isinstance(error, MlflowException) and error.error_code in _HOPELESS
            if refused or isinstance(error, FileNotFoundError | KeyError):
                what = f"{events[0]['what']} of trial {events[0]['trial']}"
                log.warning("MLflow cannot take the %s, which is left out: %s", what, _line(error))
                return True
            if not self._failing:
                log.warning("MLflow does not answer; what it should have is kept on disk: %s", _line(error))
            self._failing = True
            self.experiment_id = None  # what was sent may have arrived: the store is asked again which runs it has
            self._stop.wait(RETRY_SECONDS)
            return False
        if self._failing:
            log.warning("MLflow answers again")
        self._failing = False
        return True

    def _send_metrics(self, events: list[Event]) -> None:
        metrics = [
            Metric(key, value, event["time_ms"], event["step"])
            for event in events
            for key, value in event["metrics"].items()
        ]
        for first in range(0, len(metrics), 1000):  # MLflow's limit
            self._client.log_batch(self._run_id(events[0]["trial"]), metrics=metrics[first : first + 1000])

    def _send_one(self, event: Event) -> None:
        if event["what"] == "start":
            self._send_start(event)
            return
        run_id = self._run_id(event["trial"])
        if event["what"] == "artifacts":
            for file in event["files"]:
                self._client.log_artifact(run_id, str(self._root / file), event["folder"])
        else:
            self._client.log_batch(run_id, tags=_tags(event["tags"]))
        if event["what"] == "end":
            self._client.set_terminated(run_id, event["status"], event["time_ms"])

    def _send_start(self, event: Event) -> None:
        number = event["trial"]
        known = self._known_runs()
        assert self.experiment_id is not None
        if number in known:
            self._client.update_run(known[number], status="RUNNING")
            for tag in {OUTCOME, REASON} & self._client.get_run(known[number]).data.tags.keys():
                self._client.delete_tag(known[number], tag)
        else:
            tags = {ROLE: event["role"], RUN_NAME: event["name"], **event["tags"]}
            if number != PARENT_RUN:
                tags[PARENT] = self._run_id(PARENT_RUN)
            run = self._client.create_run(self.experiment_id, start_time=event["time_ms"], tags=tags)
            self.runs[number] = run.info.run_id
        params = [Param(key, _text(value)) for key, value in event["params"].items()]
        self._client.log_batch(self.runs[number], params=params, tags=_tags(event["tags"]))

    def _run_id(self, number: Key) -> str:
        return self._known_runs()[number]

    def _known_runs(self) -> dict[Key, str]:
        """Returns the runs that the store has; it is asked once, since no one else writes this study."""
        if self.experiment_id is None:
            experiment = self._client.get_experiment_by_name(self._experiment)
            experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(self._experiment)
            self._client.set_experiment_tag(experiment_id, view.TAG, view.view_tag())
            for run in search_runs(self._client, experiment_id, self._parent):
                self.runs[PARENT_RUN] = run.info.run_id
            for run in search_runs(self._client, experiment_id, self._child):
                key = run.data.tags[self._number]
                self.runs[int(key) if self._child is Role.TRIAL else key] = run.info.run_id
            self.experiment_id = experiment_id
        return self.runs


def _group(numbered: tuple[int, Event]) -> tuple[str, Key]:
    i, event = numbered
    return ("metrics", event["trial"]) if event["what"] == "metrics" else ("alone", i)


_HOPELESS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST")


def _tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(key, value) for key, value in tags.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _line(error: Exception) -> str:
    return redacted((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]


def is_settled(spool: Path) -> bool:
    """Whether a study's last word, the end of its own run, has been said and sent."""
    last = last_sent(spool)
    return last is not None and last["what"] == "end" and last["trial"] == PARENT_RUN
