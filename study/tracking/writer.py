"""The one writer to MLflow: a spool on disk first, a thread that sends it; training never waits for a server."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.base.names import NOTE, OUTCOME, PARENT_RUN, REASON, STATUS, Key, Outcome, Role
from study.base.uris import redacted
from study.records.storage import Storage
from study.tracking.deadline import Deadline, in_seconds
from study.tracking.process import StoreProcess
from study.tracking.spool import Event, Spool, TooEarlyError, UselessError, last_sent

log = logging.getLogger(__name__)
BATCH = 1000
TOGETHER = ("metrics", "tags")
ASKING = -1
RETRY_SECONDS = 5.0
LAST_TRY_SECONDS = 10.0
"""What a server that has been away for long is given at the end."""
ROUND_SECONDS = 3.0
"""From one sending to the next, unless someone waits: of many evaluations each must not be a request of its own."""
LOOK_SECONDS = 0.3
"""Between two looks for files that workers still write, if someone waits."""


@dataclass
class Said:
    """What a run was told so far, by this session or an earlier one, sent or not.

    Attributes:
        open: whether it was begun and not ended since.
        steps: those that have metrics, with the time of each.
        time_ms: of the latest event: a clock that steps back does not take a run's points with it.
    """

    begun: bool = False
    open: bool = False
    steps: dict[int, int] = field(default_factory=dict)
    time_ms: int = 0


class StudyWriter:
    """Writes a study into its MLflow experiment: one parent run, one child run a trial.

    Every method returns at once, and raises nothing but the OSError of a full disk. Events carry the time of their
    making, so that sending one twice changes nothing. `said` maps a trial's number to what its run was told.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        spool: Path,
        storage: Storage | None = None,
        parent: Role = Role.STUDY,
        child: Role = Role.TRIAL,
    ) -> None:
        self._experiment, self._root = experiment, spool.parent
        self._parent, self._child = parent, child
        self._spool = Spool(spool)
        storage = storage or Storage(str(self._root.parent))
        self._store = StoreProcess(uri, experiment, self._root, storage, parent, child)
        self.said: defaultdict[Key, Said] = defaultdict(Said)
        for event in self._spool.past:
            self._note(event)
        self._doubted = set(self.said) if self._spool.is_damaged else set()  # the store may have more of these runs
        self._stop = threading.Event()
        self._hurried = threading.Event()
        self._failing: int | None = None  # the place of what could not be sent, or ASKING
        self._rewound = False
        self._answered = time.monotonic()
        self.closed = False
        self._thread = threading.Thread(target=self._send_all, name="mlflow-writer", daemon=True)
        self._thread.start()

    @property
    def experiment_id(self) -> str | None:
        """The experiment's id; None while the store does not answer."""
        return self._store.experiment_id

    @property
    def runs(self) -> Mapping[Key, str]:
        """The run id of each trial, by its number, as far as known."""
        return self._store.runs

    def open_trials(self) -> list[Any]:
        """Returns the trials whose runs were begun and not ended, by this session or an earlier one."""
        return [number for number, said in self.said.items() if said.open and number != PARENT_RUN]

    def start_study(self, params: Mapping[str, Any], tags: Mapping[str, str], note: str) -> None:
        """Opens the parent run, anew or again."""
        name = self._experiment if self._parent is Role.STUDY else f"{self._experiment}-{self._parent.value}"
        self._put(PARENT_RUN, "start", name=name, params=params, tags={**tags, NOTE: note})

    def start_trial(self, number: Key, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Opens a trial's run, anew or again."""
        self._put(number, "start", name=name, params=params, tags=dict(tags))

    def log(self, number: Key, step: int, metrics: Mapping[str, float], time_ms: int | None = None) -> None:
        """Logs metrics at a training step, unless the run has some at this step already.

        Their time lies between those of the steps around. The store may have them already if the spool has forgotten
        what was sent, or if no time is given, as with an evaluation that is read from a file: it is asked first.
        """
        steps = self.said[number].steps
        if step not in steps:
            before = [at_ms for earlier, at_ms in steps.items() if earlier < step]
            after = [at_ms for later, at_ms in steps.items() if later > step]
            time_between = max([min([time_ms or _now_ms(), *after]), *before])
            doubt = {"unsure": True} if not time_ms or number in self._doubted else {}
            self._put(number, "metrics", time_between, step=step, metrics=metrics, **doubt)

    def tag(self, number: Key, tags: Mapping[str, str]) -> None:
        """Sets tags of a trial's run."""
        self._put(number, "tags", tags=tags)

    def artifacts(self, number: Key, files: Sequence[Path], folder: str | None = None, step: int | None = None) -> None:
        """Uploads files, which lie beside the spool or below it, as they are when they are sent.

        Those of a trial's folder are sent as they are when the storage has its evaluation of the step.
        """
        names = [str(file.relative_to(self._root)) for file in files]  # the study's folder may be moved
        self._put(number, "artifacts", files=names, folder=folder, step=step)

    def end_trial(self, number: Key, outcome: Outcome, reason: str | None = None) -> None:
        """Closes a trial's run with its outcome."""
        tags = {OUTCOME: outcome.value} | ({REASON: reason[:5000]} if reason else {})
        self._put(number, "end", status=STATUS[outcome], tags=tags)

    def end_study(self, status: str) -> None:
        """Closes the parent run."""
        self._put(PARENT_RUN, "end", status=status, tags={})
        self._hurried.set()  # nothing more is to come

    def patience(self, seconds: float) -> Deadline:
        """Returns until when to wait for a server: until it has been silent for so many seconds."""
        now = time.monotonic()
        return lambda: max(now + LAST_TRY_SECONDS, self._answered + seconds)

    def flush(self, wait: float | Deadline) -> bool:
        """Waits for all to be sent, for so many seconds at most or until a deadline; False if some is not."""
        self._hurried.set()
        done = self._spool.wait_empty(wait if callable(wait) else in_seconds(wait))
        self._hurried.clear()
        return done

    def close(self, wait: float | Deadline) -> bool:
        """Sends what is left, as `flush` does; False if some is left on disk for the next time.

        What is on its way to a server that hangs is not waited for, and sent again.
        """
        done = self.flush(wait)
        self._stop.set()
        self._hurried.set()
        self._spool.close()
        self._store.close()
        self.closed = True
        return done

    def _put(self, number: Key, what: str, time_ms: int | None = None, **details: Any) -> None:
        if time_ms is None:
            time_ms = max(_now_ms(), self.said[number].time_ms)
        event = {"what": what, "trial": number, "time_ms": time_ms, **details}
        self._spool.put(event)
        self._note(event)

    def _note(self, event: Event) -> None:
        said = self.said[event["trial"]]
        said.time_ms = max(said.time_ms, event["time_ms"])
        if event["what"] == "start":
            said.begun = said.open = True
        elif event["what"] == "end":
            said.open = False
        elif event["what"] == "metrics":
            said.steps[event["step"]] = event["time_ms"]

    def _send_all(self) -> None:
        while not self._stop.is_set():
            waiting = self._spool.take(BATCH, timeout=0.5)
            if not waiting or not self._ready():
                continue
            started = time.monotonic()
            now, later = in_order(waiting)
            sent: list[int] = []
            for group in now:
                if not self._sent(group):
                    break
                sent += group
            self._spool.remove(sent)  # before files, which take long
            if len(sent) == sum(map(len, now)):
                later.sort(key=lambda group: self._failing in group)  # what fails holds up nothing else
                files: list[int] = []
                for group in later:
                    files += group if self._sent(group) else ()
                    if time.monotonic() > started + ROUND_SECONDS:
                        break
                self._spool.remove(files)
                sent += files
            if self._hurried.wait(started + ROUND_SECONDS - time.monotonic()) and not sent:
                self._stop.wait(LOOK_SECONDS)

    def _ready(self) -> bool:
        """Whether the store answers; one that has lost the study, or never had it, is to be sent all of it, once."""
        try:
            self._store.ask()
        except Exception as error:  # see _sent
            self._wait(error, ASKING)
            return False
        if PARENT_RUN not in self._store.runs and self._spool.any_sent and not self._rewound:
            self._rewound = True
            self._spool.rewind()
            return False
        return True

    def _sent(self, group: Mapping[int, Event]) -> bool:
        """Sends events once; True if that is over with, False if they are to be sent again."""
        place, events = min(group), list(group.values())
        try:
            self._store.send(events)
        except TooEarlyError:
            return False
        except UselessError as error:
            what = f"{events[0]['what']} of trial {events[0]['trial']}"
            log.warning("MLflow cannot take the %s, which is left out: %s", what, _line(error))
        except Exception as error:  # a server that is away, in whichever of its many ways: the events stay on disk
            self._wait(error, place)
            return False
        if self._failing in (place, ASKING):
            log.warning("MLflow answers again")
            self._failing = None
        self._answered = time.monotonic()
        return True

    def _wait(self, error: Exception, place: int) -> None:
        if self._failing is None and not self._stop.is_set():
            log.warning("MLflow does not answer; what it should have is kept on disk: %s", _line(error))
        self._failing = place
        self._store.doubt()
        self._stop.wait(RETRY_SECONDS)


def _now_ms() -> int:
    return int(time.time() * 1000)


def in_order(waiting: Iterable[tuple[int, Event]]) -> tuple[list[dict[int, Event]], list[dict[int, Event]]]:
    """Returns what is to be sent one after the other, and then what may be sent in any order, each by its places.

    Metrics and tags of one run go together, whatever was said of others meanwhile; all else goes alone, so that what
    MLflow refuses takes nothing with it. Files take long, and metrics are not to wait for them: the first of a run's
    files, and nothing that was said of the run after them, may be sent later. The study's own end waits for all else.
    """
    now: list[dict[int, Event]] = []
    later: list[dict[int, Event]] = []
    together: dict[Key, dict[int, Event]] = {}
    held: set[Key] = set()
    for place, event in waiting:
        number, what = event["trial"], event["what"]
        if number in held:
            continue
        if what == "artifacts":
            held.add(number)
            later.append({place: event})
        elif what == "end" and number == PARENT_RUN and later:
            held.add(number)
        elif what in TOGETHER and number in together:
            together[number][place] = event
        else:
            now.append({place: event})
            together.pop(number, None)
            if what in TOGETHER:
                together[number] = now[-1]
    return now, later


def _line(error: Exception) -> str:
    return redacted((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]


def is_settled(spool: Path) -> bool:
    """Whether a study's last word, the end of its own run, has been said and sent; what was stopped has more to say."""
    last = last_sent(spool)
    return (
        last is not None
        and last["what"] == "end"
        and last["trial"] == PARENT_RUN
        and last["status"] != STATUS[Outcome.STOPPED_EARLY]
    )
