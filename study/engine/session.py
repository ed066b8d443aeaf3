"""One session of a search or of a confirmation: its lock, uploads, MLflow, signals, and its end, whichever it is."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from study.base.errors import WorldError, disk_error
from study.base.names import Role
from study.engine.cluster import Room, stop_ray
from study.engine.display import Display
from study.engine.early_stopping import SparingASHA
from study.engine.recorder import Recorder
from study.engine.run_source import RunSource
from study.engine.runner import Stop, run_trials
from study.engine.searcher import RunSearcher
from study.engine.start_up import Machines
from study.engine.trial import Job, trainable
from study.records.lock import StudyLock
from study.records.storage import Storage, first_line
from study.records.uploads import UploadQueue
from study.tracking.deadline import SEND_SECONDS, SEND_SECONDS_AFTER_ERROR, SEND_SECONDS_INTERRUPTED, Deadline
from study.tracking.writer import StudyWriter


@dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """What a session works with.

    Attributes:
        root: the study's folder, and `path`: the folder that the session writes, which is in it or the same.
        lock: is held, and `lock_path`: its file.
        uri: the MLflow store's.
        parent: the role of the session's own run.
        title: what is stopped, if someone stops it.
        go_on: how to go on after an error, and `sent_by`: when MLflow gets what it lacks.
    """

    study: str
    root: Path
    path: Path
    storage: Storage
    uploads: UploadQueue
    lock: StudyLock
    lock_path: Path
    machines: Machines
    uri: str
    parent: Role
    title: str
    go_on: str
    sent_by: str
    time_budget: float | None = None


class Session:
    """A session that goes on."""

    def __init__(self, plan: SessionPlan, stop: Stop, writer: StudyWriter, console: Console) -> None:
        self.plan, self.stop, self.writer, self.console = plan, stop, writer, console
        pause_reason = f"the {plan.title} was stopped"
        self.recorder = Recorder(plan.root, plan.uploads, writer, pause_reason, plan.machines.slots.trials_per_gpu)

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str], note: str) -> None:
        """Opens the session's own run in MLflow."""
        self.writer.start_study(params, tags, note)

    def run_set(self, source: RunSource, display: Display, scheduler: SparingASHA | None = None) -> None:
        """Trains the runs of a source until all have ended, or the session is to stop."""
        plan, machines = self.plan, self.plan.machines
        device = machines.estimate.device
        job = Job(storage=plan.storage.uri, study=plan.study, data=machines.data, device=device)
        searcher = RunSearcher(source, [display, self.recorder], Room(machines.slots).has_more_than)
        run_trials(searcher, scheduler, trainable(job), machines.slots, self.stop, plan.path / "ray")

    def patience(self) -> Deadline:
        """Returns until when to wait for MLflow."""
        return self.stop.shortened(self.writer.patience(SEND_SECONDS), SEND_SECONDS_INTERRUPTED)

    def finish(self, status: str) -> None:
        """Closes the session's own run, ends Ray, and waits until MLflow has all, or is away for too long."""
        patience = self.patience()
        self.writer.end_study("KILLED" if self.stop.interrupted else status)
        stop_ray()  # takes its second while the last is sent
        if not self.writer.close(patience):
            message = f"MLflow has not taken all yet: what it lacks is kept, and sent {self.plan.sent_by}"
            self.console.print(message, style="yellow")


@contextmanager
def open_session(plan: SessionPlan, write_config: Callable[[], None], console: Console) -> Iterator[Session]:
    """Begins a session, whose config is written first, and ends it in good order.

    Raises:
        WorldError: if the disk is full or gone, or the object store does not answer.
    """
    with plan.lock:
        try:
            write_config()
            stop = Stop(plan.time_budget)
            patience = lambda: SEND_SECONDS_INTERRUPTED if stop.interrupted else SEND_SECONDS  # noqa: E731
            with plan.uploads.running(patience, plan.lock.check_in_store), stop.on_signals():
                yield from _session(plan, stop, console)
        except Exception as error:
            raise _explained(plan, error) from None


def _session(plan: SessionPlan, stop: Stop, console: Console) -> Iterator[Session]:
    writer = StudyWriter(plan.uri, plan.study, plan.root, plan.storage, plan.parent)
    session = Session(plan, stop, writer, console)
    try:
        yield session
    except BaseException:  # the runs must not seem to go on
        if not writer.closed:  # else it is only the printing that failed
            session.recorder.pause_all()
            writer.end_study("FAILED")
            writer.close(SEND_SECONDS_AFTER_ERROR)
        raise


def _explained(plan: SessionPlan, error: Exception) -> Exception:
    """Returns the error to raise: one that says how to go on, if the world is at fault."""
    if plan.storage.is_remote and not plan.lock_path.exists():
        what = f"{plan.path}, a copy on this machine, was removed while the {plan.title} ran"
        return WorldError(f"{what}: nothing that was written is lost; {plan.go_on}")
    disk = disk_error(error)
    if disk is not None or isinstance(error, WorldError):
        what = f"{plan.path} cannot be written: {disk}" if disk is not None else str(error)
        return WorldError(f"{what}: nothing that was written is lost; make space, then {plan.go_on}")
    if plan.storage.is_remote and isinstance(error, OSError) and error.errno is None:  # a store's own
        what = f"storage {plan.storage.uri} does not answer ({first_line(error)})"
        return WorldError(f"{what}: nothing that was written is lost; {plan.go_on}")
    return error
