"""Keeps a folder and its place in an object store alike, while someone works in the folder."""

import json
import logging
import os
import platform
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from study.base.errors import UserError
from study.records.storage import Storage, first_line
from study.records.study_layout import StudyFolder
from study.training.run_folder import RunFolder

log = logging.getLogger(__name__)
PAUSE_SECONDS = 1.0
RETRY_SECONDS = 5.0
SHARE = 0.2
"""Of the time, what sending may take when no one waits for it."""
WORKER_SECONDS = 60.0
"""After its end a worker may still write for so long; it gives up before."""
HELD_SECONDS = 30.0
"""A session on another machine is dead if its lock in the store does not change for so long."""
LOCK = "study.lock"
_idle = threading.Event()
_idle.set()
_SCRATCH = re.compile(r"^\.|\.part$")
_ORDER = ("metrics.jsonl", "state.pt", "manifest.json")


class Mirror:
    """Sends what is written in a folder to its place in an object store, from a thread of its own.

    An object store has no rename, and files go one after the other: what is written last is opened first and sent last
    (weights, evaluations, a checkpoint's state, its manifest), so that nothing in the store ever names what is not
    there yet. A store that is away is tried again until it answers. Where the folder itself is the storage there is
    nothing to do, and nothing is done.

    Args:
        skip: names of folders in it that are not its business.
    """

    def __init__(self, storage: Storage, path: Path, skip: frozenset[str] = frozenset()) -> None:
        self._storage, self._path, self._skip = storage, path, skip
        self._sent: dict[Path, tuple[int, ...]] = {}  # what the store has: what it was like when it was opened
        self._doomed: list[tuple[float, Path]] = []
        self._changed = threading.Condition()
        self._asked = self._done = 0
        self._ending = self._closing = self._failing = False

    def fetch(self) -> None:
        """Makes the folder what the store has of it; waits for a store that is away."""
        while self._storage.is_remote:
            try:
                for path in self._files():
                    if path.name != LOCK:
                        path.unlink()
                for path in self._storage.list(self._path):
                    if path.name != LOCK and not self._skip & set(path.relative_to(self._path).parts):
                        self._storage.fetch(path)
                        self._sent[path] = _signature(path.stat())
                return
            except OSError as error:
                if error.errno is not None and not isinstance(error, FileNotFoundError):
                    raise  # of this machine's disk: a store's own errors have no number
                self._say(error)
                time.sleep(RETRY_SECONDS)

    @contextmanager
    def running(self, patience: Callable[[], float]) -> Iterator["Mirror"]:
        """Keeps the store up to date meanwhile, and tries to for at most so many seconds at the end, asked for then."""
        if not self._storage.is_remote:
            yield self
            return
        thread = threading.Thread(target=self._run, name="mirror", daemon=True)
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

    @property
    def is_whole(self) -> bool:
        """Whether the store has all that it was last asked to take."""
        return not self._storage.is_remote or self._done >= self._asked

    def ask(self) -> int:
        """Asks for what is written by now to be sent soon; returns a number to ask `has` with."""
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

    def remove(self, path: Path) -> None:
        """Removes a folder, here at once, and in the store when no worker can still be writing it."""
        shutil.rmtree(path, ignore_errors=True)
        if self._storage.is_remote:
            self._doomed.append((time.monotonic() + WORKER_SECONDS, path))

    def _run(self) -> None:
        while not self._closing:
            asked, started = self._asked, time.monotonic()
            try:
                self._send_all()
            except OSError as error:
                self._say(error)
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
        files: dict[Path, tuple[IO[bytes], os.stat_result]] = {}
        try:
            for path in sorted(self._files(), key=_rank, reverse=True):
                try:
                    file = path.open("rb")
                except FileNotFoundError:
                    continue  # an old checkpoint, removed meanwhile
                files[path] = file, os.fstat(file.fileno())
            for path, (opened, stat) in reversed(files.items()):
                signature = _signature(stat)
                if self._sent.get(path) != signature:
                    self._storage.send(opened, path, stat.st_size)
                    self._sent[path] = signature
        finally:
            for opened, _ in files.values():
                opened.close()
        for path in sorted(self._sent.keys() - files.keys(), key=_rank, reverse=True):
            self._storage.delete(path)
            del self._sent[path]
        for doomed in self._doomed[:]:
            if self._ending or time.monotonic() >= doomed[0]:
                for path in sorted(self._storage.list(doomed[1]), key=_rank, reverse=True):
                    self._storage.delete(path)
                self._doomed.remove(doomed)

    def _files(self) -> Iterator[Path]:
        for folder, folders, names in os.walk(self._path):
            folders[:] = [name for name in folders if name not in self._skip and not _SCRATCH.search(name)]
            paths = (Path(folder, name) for name in names if not _SCRATCH.search(name))
            yield from (path for path in paths if not path.is_symlink())

    def _say(self, error: OSError) -> None:
        if not self._failing:
            log.warning("storage does not answer; what it lacks is sent when it does: %s", first_line(error))
        self._failing = True


@contextmanager
def open_run(uri: str, study: str, place: Path) -> Iterator[tuple[RunFolder, Mirror]]:
    """Opens a folder at a place in a study's where its run is trained, as the run's last attempt left it.

    The shared folder itself, or a copy that is mirrored and goes when the context ends. Raises RuntimeError if this
    node does not see the shared folder.
    """
    storage = Storage(uri)
    if not storage.is_remote:
        folder = StudyFolder(storage.folder, study)
        if not folder.config.exists():
            raise RuntimeError(f"this node does not see {folder.path}: mount it here, or keep the node out")
        run = RunFolder(folder.path / place)
        yield run, Mirror(storage, run.path)
        return
    with tempfile.TemporaryDirectory(prefix="dynamic-dropout-") as scratch:
        storage = Storage(uri, Path(scratch))
        run = RunFolder(StudyFolder(storage.folder, study).path / place)
        mirror = Mirror(storage, run.path)
        mirror.fetch()
        _idle.clear()
        try:
            with mirror.running(lambda: WORKER_SECONDS - 10):
                yield run, mirror
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


def check_not_held_elsewhere(storage: Storage, lock: Path, what: str) -> None:
    """Raises UserError if a session on another machine goes on counting in its lock of `what` in an object store."""
    if not storage.is_remote or not (holder := storage.read(lock)):
        return
    who = json.loads(holder)
    deadline = time.monotonic() + (HELD_SECONDS if who.get("host") != platform.node() else 0)
    while time.monotonic() < deadline:
        time.sleep(2)  # between two looks at what another machine writes
        if storage.read(lock) not in (holder, None):
            raise UserError(
                f"{what} is being run by process {who.get('pid')} on {who.get('host')} since "
                f"{who.get('since')}: wait until it ends, or stop it first"
            )


def _rank(path: Path) -> tuple[int, str]:
    """Orders files as they are to be sent."""
    return (_ORDER.index(path.name) if path.name in _ORDER else -1), str(path)


def _signature(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
