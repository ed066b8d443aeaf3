"""Sends files of a study or a run to an object store, while the study goes on."""

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from study.base.errors import UserError
from study.base.sealed_files import MANIFEST
from study.records.downloads import RETRY_SECONDS, download_folder
from study.records.storage import APPENDED, Storage, first_line
from study.records.study_layout import StudyFolder
from study.training.checkpoints import STATE
from study.training.run_folder import RunFolder

log = logging.getLogger(__name__)
PAUSE_SECONDS = 1.0
SHARE = 0.2
"""The share of the time that uploads may take when no one waits for them."""
WORKER_SECONDS = 60.0
"""A worker may still write for so long after its end; it gives up before."""
_idle = threading.Event()
_idle.set()
_ORDER = ("metrics.jsonl", STATE, MANIFEST)


@dataclass(frozen=True)
class _Upload:
    """A file as it was when its writer put it into the queue: open, so that its content cannot change or vanish."""

    file: IO[bytes]
    size: int


class UploadQueue:
    """A queue of uploads to an object store, and the thread that works through it.

    Whoever writes a file calls `put`, and whoever removes a folder calls `remove`. Nothing else changes the store: a
    local file that is missing deletes nothing there. An object store has no rename, and files arrive one after the
    other. So the queue takes each file as it is at `put`, and sends weights before the evaluations that name them, and
    a checkpoint's state before its manifest. A store that is away is tried again until it answers. Where the folder
    itself is the storage, nothing is uploaded.

    Args:
        watched: files that libraries append to or replace. The thread itself looks whether they have changed.
        delay: how many seconds the store keeps a folder after `remove`, since a worker may still write into it.
    """

    def __init__(self, storage: Storage, watched: Iterable[Path] = (), delay: float = WORKER_SECONDS) -> None:
        self._storage, self._watched, self._delay = storage, list(watched), delay
        self._seen: dict[Path, tuple[int, ...]] = {}  # what each watched file was like when it was last put
        self._first: dict[Path, IO[bytes]] = {}  # the watched files that only grow, open since the first look
        self._queue: dict[Path, _Upload] = {}
        self._removals: dict[Path, float] = {}  # when each folder may be removed, by `time.monotonic`
        self._changed = threading.Condition()
        self._asked = self._done = 0
        self._check: Callable[[], None] | None = None
        self._ending = self._closing = self._failing = False

    @contextmanager
    def running(
        self, patience: Callable[[], float], check: Callable[[], None] | None = None
    ) -> Iterator["UploadQueue"]:
        """Uploads while the context lasts. At its end, waits at most `patience()` seconds for the rest.

        `check` is called before anything in the store is changed; it does not return if this process must not.
        """
        self._check = check
        if not self._storage.is_remote:
            yield self
            return
        thread = threading.Thread(target=self._run, name="uploads", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._ending = True
            self.flush(seconds := patience())
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            thread.join(min(seconds, RETRY_SECONDS))

    def put(self, *paths: Path) -> None:
        """Queues files for upload as they are now. A later `put` of the same file replaces an earlier one."""
        if self._storage.is_remote:
            for path in paths:
                self._put(path, path.open("rb"))

    def remove(self, path: Path) -> None:
        """Removes a folder, here at once, and in the store after the delay."""
        shutil.rmtree(path, ignore_errors=True)
        if self._storage.is_remote:
            with self._changed:
                for queued in [queued for queued in self._queue if queued.is_relative_to(path)]:
                    self._queue.pop(queued).file.close()
                self._removals[path] = time.monotonic() + self._delay

    def ask(self) -> int:
        """Asks for an upload of everything written by now; returns a number to ask `has` with."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
            return self._asked

    def has(self, asked: int) -> bool:
        """Whether the store has what was written when `ask` gave this number."""
        return not self._storage.is_remote or self._done >= asked

    def flush(self, patience: float | None = None) -> bool:
        """Waits until the store has what is written by now; False if that takes longer than `patience` seconds."""
        asked = self.ask()
        with self._changed:
            return self._changed.wait_for(lambda: self.has(asked), patience)

    def _put(self, path: Path, file: IO[bytes]) -> None:
        upload = _Upload(file, os.fstat(file.fileno()).st_size)
        with self._changed:
            if (old := self._queue.pop(path, None)) is not None:
                old.file.close()
            self._queue[path] = upload
            for removed in [removed for removed in self._removals if path.is_relative_to(removed)]:
                del self._removals[removed]  # the folder is written anew

    def _run(self) -> None:
        while not self._closing:
            asked, started = self._asked, time.monotonic()
            try:
                self._send_all()
            except OSError as error:
                if not self._failing:
                    log.warning("storage does not answer; the uploads wait until it does: %s", first_line(error))
                self._failing = True
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, RETRY_SECONDS)
                continue
            if self._failing:
                log.warning("storage answers again")
                self._failing = False
            pause = max(PAUSE_SECONDS, (time.monotonic() - started) * (1 / SHARE - 1))
            with self._changed:
                self._done = asked
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closing or self._asked > self._done, pause)

    def _send_all(self) -> None:
        self._look_at_watched()
        with self._changed:  # at one moment: a removal waits for the uploads that were queued before it
            taken = dict(sorted(self._queue.items(), key=lambda item: _rank(item[0])))
            self._queue.clear()
            due = [path for path, when in self._removals.items() if self._ending or time.monotonic() >= when]
        try:
            if self._check is not None and (taken or due):
                self._check()
            for path, upload in list(taken.items()):
                upload.file.seek(0)
                self._storage.send(upload.file, path, upload.size)
                taken.pop(path).file.close()
        finally:
            with self._changed:
                for path, upload in taken.items():  # those that the store did not take
                    if path in self._queue or any(path.is_relative_to(removed) for removed in self._removals):
                        upload.file.close()
                    else:
                        self._queue[path] = upload
        for folder in due:
            for path in sorted(self._storage.list(folder), key=_rank, reverse=True):
                self._storage.delete(path)
            with self._changed:
                self._removals.pop(folder, None)

    def _look_at_watched(self) -> None:
        for path in self._watched:
            try:
                file = path.open("rb")
            except FileNotFoundError:
                continue  # it is not written yet, or was cleared away: the store keeps what it has
            if path.suffix in APPENDED and path not in self._first:
                self._first[path] = path.open("rb")
            signature = _signature(file)
            if signature == self._seen.get(path) or not self._continues(path, file):
                file.close()
            else:
                self._seen[path] = signature
                self._put(path, file)

    def _continues(self, path: Path, file: IO[bytes]) -> bool:
        """Whether a file still holds everything that it held; one that was cleared away and begun anew does not."""
        return path not in self._first or os.path.sameopenfile(self._first[path].fileno(), file.fileno())


@contextmanager
def open_run(uri: str, study: str, place: Path) -> Iterator[tuple[RunFolder, UploadQueue]]:
    """Opens a folder at a place in a study's where its run is trained, as the run's last attempt left it.

    That is the shared folder itself, or a copy whose files are uploaded, and which goes when the context ends. Raises
    RuntimeError if this node does not see the shared folder.
    """
    storage = Storage(uri)
    if not storage.is_remote:
        folder = StudyFolder(storage.folder, study)
        if not folder.config.exists():
            raise RuntimeError(f"this node does not see {folder.path}: mount it here, or keep the node out")
        run = RunFolder(folder.path / place)
        yield run, UploadQueue(storage)
        return
    with tempfile.TemporaryDirectory(prefix="dynamic-dropout-") as scratch:
        storage = Storage(uri, Path(scratch))
        uploads = UploadQueue(storage, delay=0.0)
        run = RunFolder(StudyFolder(storage.folder, study).path / place, uploads)
        download_folder(storage, run.path)
        _idle.clear()
        try:
            with uploads.running(lambda: WORKER_SECONDS - 10):
                yield run, uploads
        finally:
            _idle.set()


@contextmanager
def open_copy(uri: str, study: str, names: frozenset[str]) -> Iterator[StudyFolder]:
    """Opens a study's folder to read files of some names: the folder itself, or a copy of what an object store has.

    Raises UserError if that cannot be read.
    """
    storage = Storage(uri)
    if not storage.is_remote:
        yield StudyFolder(storage.folder, study)
        return
    with tempfile.TemporaryDirectory(prefix="dynamic-dropout-") as scratch:
        storage = Storage(uri, Path(scratch))
        folder = StudyFolder(storage.folder, study)
        try:
            storage.fetch_all(path for path in storage.list(folder.path) if path.name in names)
        except OSError as error:
            raise UserError(f"--storage {uri} cannot be read ({first_line(error)}): see its credentials") from None
        yield folder


def wait_until_sent() -> None:
    """Waits until no trial of this process has anything left to send."""
    _idle.wait(WORKER_SECONDS)


def _rank(path: Path) -> tuple[int, str]:
    """Orders files as they are to be uploaded."""
    return (_ORDER.index(path.name) if path.name in _ORDER else -1), str(path)


def _signature(file: IO[bytes]) -> tuple[int, ...]:
    stat = os.fstat(file.fileno())
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
