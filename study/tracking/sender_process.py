"""The process that compares a study with MLflow: an embedded store takes milliseconds of CPU time for each evaluation,
and the driver, which feeds the workers, must not wait for that."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from study.base.names import Key, Role
from study.base.uris import redacted
from study.records.storage import Storage
from study.tracking.run_record import RunRecord

KILL_SECONDS = 5.0


Answer = dict[str, Any]
"""What came of a round: `error` is why MLflow does not answer, None if it does; `refused` are lines about what MLflow
refuses for good; `left` is how many runs MLflow may still lack something of; `runs` are new run ids, with their keys;
`points_sent` is how many points were sent, `latest_s` how old the oldest was by then, and `cpu_s` the CPU time used."""


class SenderProcess:
    """A `MLflowSender` in a process of its own, which begins with the first round, and ends with this process."""

    def __init__(self, uri: str, experiment: str, root: Path, storage: Storage, parent: Role) -> None:
        self._settings = {
            "uri": uri,
            "experiment": experiment,
            "root": str(root.absolute()),
            "storage": [storage.uri, str(storage.folder)],
            "parent": parent,
        }
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def round(self, records: Sequence[RunRecord], changed: Mapping[Key, int], seconds: float) -> Answer:
        """Tells the process what has changed, and lets it send for about so many seconds what MLflow lacks.

        Raises:
            ConnectionError: if the process has died. The next one must be given all records.
        """
        question = {"records": [vars(r) for r in records], "changed": list(changed.items()), "seconds": seconds}
        try:
            process = self._process or self._begin()
            assert process.stdin is not None
            assert process.stdout is not None
            _write(process.stdin, question)
            return dict(json.loads(process.stdout.readline()))
        except (OSError, ValueError) as error:  # ValueError: the answer is empty, or half of one
            self._drop()
            reason = f" ({error})" if isinstance(error, OSError) else ""
            raise ConnectionError(f"the process that sends to MLflow has died{reason}") from None

    def close(self) -> None:
        """Ends the process; whoever waits for its answer gets a ConnectionError."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
            with suppress(subprocess.TimeoutExpired):  # it waits for a disk: no one waits for it
                process.wait(KILL_SECONDS)

    def _begin(self) -> subprocess.Popen[str]:
        run = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
        self._process = process = subprocess.Popen(
            [sys.executable, "-P", "-c", run],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the study
        )
        if self._closed:
            raise BrokenPipeError
        assert process.stdin is not None
        _write(process.stdin, self._settings)  # others can read a command line, and the URI may hold a password
        return process

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # the last question is still in there
                    pipe.close()  # type: ignore[union-attr]


def _write(file: IO[str], content: Mapping[str, Any]) -> None:
    file.write(json.dumps(content) + "\n")
    file.flush()


def main() -> None:
    """Answers the questions on standard input until that ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # ignored: the parent process stops this one by closing stdin
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what MLflow prints is no answer
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # the study says once that a server is away
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_work, args=(lines, answers), daemon=True).start()
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _work(lines: "SimpleQueue[str]", answers: IO[str]) -> None:
    try:
        _answer_all(lines, answers)
    except BrokenPipeError:
        pass  # the parent process is gone
    except Exception:  # the study only sees that this process has ended
        print(redacted(traceback.format_exc()), file=sys.stderr, flush=True)
    os._exit(1)


def _answer_all(lines: "SimpleQueue[str]", answers: IO[str]) -> None:
    from study.tracking.mlflow_sender import MLflowSender  # takes seconds, in which the end must not go unnoticed

    settings = json.loads(lines.get())
    storage, root = Storage(settings["storage"][0], Path(settings["storage"][1])), Path(settings["root"])
    store = MLflowSender(settings["uri"], settings["experiment"], root, storage, Role(settings["parent"]))
    told: dict[Key, str] = {}
    while True:
        question, error = json.loads(lines.get()), None
        store.want([_record(d) for d in question["records"]], dict(map(tuple, question["changed"])))
        try:
            store.send(question["seconds"])
        except Exception as raised:  # whatever a store raises that is away: the next round tries again
            error = redacted((str(raised).strip().splitlines() or [type(raised).__name__])[0])[:200]
        runs = {key: run.run_id for key, run in store.runs.items()}
        answer = {
            "error": error,
            "refused": store.refused,
            "left": store.left,
            "experiment_id": store.experiment_id,
            "runs": [(key, run_id) for key, run_id in runs.items() if told.get(key) != run_id],
            "points_sent": store.points_sent,
            "latest_s": store.latest_s,
            "cpu_s": time.process_time(),
        }
        store.refused, told = [], runs
        _write(answers, answer)


def _record(d: dict[str, Any]) -> RunRecord:
    files = {name: tuple(map(tuple, d[name])) for name in ("points", "closing_files", "more_files")}
    return RunRecord(**d | files)
