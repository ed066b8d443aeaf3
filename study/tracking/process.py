"""A study's store in a process of its own: an embedded one takes milliseconds of CPU time for each evaluation, which
whoever feeds the workers must not wait for."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from study.base.names import PARENT_RUN, Key, Role
from study.base.uris import redacted
from study.records.storage import Storage
from study.tracking.spool import Event, TooEarlyError, UselessError

ERRORS: dict[str, type[Exception]] = {kind.__name__: kind for kind in (TooEarlyError, UselessError)}
"""Those that mean more than that the store is away."""
KILL_SECONDS = 5.0


class StoreProcess:
    """A `StudyStore` elsewhere. `runs` and `experiment_id` are the last that it has told.

    The process is begun when it is first asked, and again when it has died. It ends with this one, in the middle of a
    sending too: what is sent twice changes nothing. Raises what StudyStore raises, but all that means that the store is
    away as a ConnectionError.
    """

    def __init__(self, uri: str, experiment: str, root: Path, storage: Storage, parent: Role, child: Role) -> None:
        self._what = {
            "uri": uri,
            "experiment": experiment,
            "root": str(root.absolute()),
            "storage": [storage.uri, str(storage.folder)],
            "roles": [parent, child],
        }
        self.runs: dict[Key, str] = {}
        self.experiment_id: str | None = None
        self._in_doubt = True
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def ask(self) -> None:
        """See StudyStore."""
        if self._in_doubt:
            self._call([])

    def doubt(self) -> None:
        """See StudyStore."""
        self._in_doubt = True

    def send(self, events: Sequence[Event]) -> None:
        """See StudyStore."""
        self._call(events)

    def close(self) -> None:
        """Ends the process; whoever waits for its answer gets a ConnectionError."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
            with suppress(subprocess.TimeoutExpired):  # it waits for a disk: no one waits for it
                process.wait(KILL_SECONDS)

    def _call(self, events: Sequence[Event]) -> None:
        try:
            process = self._process or self._begin()
            assert process.stdin is not None
            assert process.stdout is not None
            _write(process.stdin, {"in_doubt": self._in_doubt, "events": events})
            answer = json.loads(process.stdout.readline())
        except (OSError, ValueError) as error:  # ValueError: the answer is empty, or half of one
            self._drop()
            reason = f" ({error})" if isinstance(error, OSError) else ""
            raise ConnectionError(f"the process that sends to MLflow has died{reason}") from None
        self._in_doubt = answer["experiment_id"] is None
        self.experiment_id = answer["experiment_id"] or self.experiment_id
        if answer["runs"] is not None:
            self.runs = dict(answer["runs"])
        elif made := {number: run_id for number, run_id in answer["made"] if number not in self.runs}:
            self.runs = self.runs | made  # another one, since others may be reading this one
        if answer["error"] is not None:
            kind, message = answer["error"]
            raise ERRORS.get(kind, ConnectionError)(message)

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
        _write(process.stdin, self._what)  # not as an argument, which others could read: the URI may hold a password
        return process

    def _drop(self) -> None:
        process, self._process, self._in_doubt = self._process, None, True
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # what it was told last is still in there
                    pipe.close()  # type: ignore[union-attr]


def _write(file: IO[str], content: Mapping[str, Any]) -> None:
    file.write(json.dumps(content) + "\n")
    file.flush()


def main() -> None:
    """Answers what is asked on standard input, until that ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # those who stop a study get this far by its standard input's end
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what MLflow prints is no answer
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # that a server is away is said once, by the study
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_work, args=(lines, answers), daemon=True).start()
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _work(lines: "SimpleQueue[str]", answers: IO[str]) -> None:
    try:
        _answer_all(lines, answers)
    except BrokenPipeError:
        pass  # who asked is gone
    except Exception:  # the study only sees that this process has ended
        print(redacted(traceback.format_exc()), file=sys.stderr, flush=True)
    os._exit(1)


def _answer_all(lines: "SimpleQueue[str]", answers: IO[str]) -> None:
    from study.tracking.store import StudyStore  # takes seconds, in which the end must not go unnoticed

    what = json.loads(lines.get())
    uri, folder = what["storage"]
    parent, child = map(Role, what["roles"])
    store = StudyStore(what["uri"], what["experiment"], Path(what["root"]), Storage(uri, Path(folder)), parent, child)
    told = store.runs  # of these it has been told, and of what was begun at its word
    while True:
        asked, error = json.loads(lines.get()), None
        events = asked["events"]
        try:
            if asked["in_doubt"]:
                store.doubt()
            if events:
                store.send(events)
            else:
                store.ask()
        except Exception as raised:  # whatever a store raises that is away: the writer keeps what it could not send
            error = [type(raised).__name__, str(raised) or type(raised).__name__]
        concerned = {PARENT_RUN} | {event["trial"] for event in events}
        answer = {
            "error": error,
            "experiment_id": store.experiment_id,
            "runs": list(store.runs.items()) if store.runs is not told else None,  # it has asked, and found these
            "made": [(number, store.runs[number]) for number in concerned & store.runs.keys()],
        }
        told = store.runs
        _write(answers, answer)
