"""One driver at a time on an object store, which has no locks and, through pyarrow, no exclusive creation of a file."""

import atexit
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from study.base.errors import UserError
from study.records.storage import Storage, first_line

LOOK_SECONDS = 2.0
BEAT_SECONDS = 5.0
SILENT_SECONDS = 30.0
"""A session whose file in the store has not changed for so long is dead."""
RELEASE_SECONDS = 5.0
RECORD_BYTES = 512


class StoreLock:
    """Held by the one session that may write below a folder of an object store.

    Each session writes a file of its own, `TOKEN.claim`, before it looks for the files of others. So of two sessions
    at least one sees the other, whatever their timing. A session that sees no other writes `TOKEN.held` and goes on.
    It refuses to start beside a holder that lives. Of two that begin at once the smaller token waits, and the other
    one gives up. Each session changes its file again and again: a file that stays the same is of a dead session, and
    the next one removes it. A holder that was paused for so long looks for its file before it writes, and ends.

    Args:
        folder: where the sessions write their files.
        record: who this session is, for the messages of the others.
        title: the thing that is locked, in a message.

    Raises:
        UserError: if another session holds it, or if the store does not answer.
    """

    def __init__(self, storage: Storage, folder: Path, record: Mapping[str, Any], title: str) -> None:
        self._storage, self._folder, self._title = storage, folder, title
        self._record = {**record, "processes": _process_space()}
        self._token = uuid.uuid4().hex
        self._claim, self._held = (folder / f"{self._token}.{state}" for state in ("claim", "held"))
        self._removed: set[Path] = set()  # files of dead sessions; a paused one may write its own again
        self._beats = 0
        self._is_away = False
        self._released = threading.Event()
        self._is_taken_over = False
        self._ending = threading.Lock()
        self._writing = threading.Lock()
        atexit.register(self.release)
        try:
            self._take()
        except BaseException as error:
            self.release()
            if isinstance(error, OSError):
                uri = storage.uri
                raise UserError(f"--storage {uri} does not answer ({first_line(error)}): try again later") from None
            raise
        threading.Thread(target=self._beat, name="store-lock", daemon=True).start()

    def check(self) -> None:
        """Ends this process at once if another session has taken the lock over. Raises OSError if the store is away."""
        if self._is_taken_over:
            self._end()
        if self._released.is_set():
            raise OSError(f"the lock of {self._title} was released")
        for look in range(2):
            files = self._list()
            if self._held not in files:
                break
            if not self._others(files, (".held",)):
                return
            if look == 0:
                time.sleep(LOOK_SECONDS)  # a session that was taken for dead may just be giving up
        if self._is_taken_over or not self._released.is_set():
            self._is_taken_over = True
            self._end()

    def _end(self) -> NoReturn:
        with self._ending:  # another thread that finds the same waits here until the process ends
            self.release()
            end_at_once(self._title)

    def release(self) -> None:
        """Lets another session begin; does not wait for a store that is known to be away."""
        if self._released.is_set():
            return
        self._released.set()
        atexit.unregister(self.release)
        thread = threading.Thread(target=self._withdraw, daemon=True)
        thread.start()
        thread.join(0 if self._is_away else RELEASE_SECONDS)

    def _take(self) -> None:
        seen: dict[Path, tuple[bytes, float]] = {}
        self._write(self._claim)
        while others := self._others(self._storage.list(self._folder)):
            lives = [self._lives(path, seen) for path in others]
            if any(lives):
                time.sleep(LOOK_SECONDS)  # between two looks at what another machine writes
                self._write(self._claim)
        self._write(self._held)
        files = self._storage.list(self._folder)
        if self._claim not in files or self._others(files, (".held",)):  # it was paused, and taken for dead meanwhile
            raise held_by(self._title, {})
        self._storage.delete(self._claim)

    def _list(self) -> list[Path]:
        self._is_away = True
        files = self._storage.list(self._folder)
        self._is_away = False
        return files

    def _lives(self, path: Path, seen: dict[Path, tuple[bytes, float]]) -> bool:
        """Whether another session may live; removes its file if not. Raises UserError if this one is to give up."""
        try:
            content = self._storage.read(path)
        except OSError:
            return True  # it was replaced while it was read; if the store is away, the next listing says so
        if content is None:
            return False
        now, record = time.monotonic(), _parsed(content)
        before, since = seen.setdefault(path, (content, now))
        if content != before:
            if path.suffix == ".held" or path.stem < self._token:
                raise held_by(self._title, record)
            seen[path] = content, now
        elif now - since >= SILENT_SECONDS or _has_died_here(record):
            self._removed.add(path)
            self._storage.delete(path)
            return False
        return True

    def _others(self, files: list[Path], states: tuple[str, ...] = (".claim", ".held")) -> list[Path]:
        known = {self._claim, self._held} | self._removed
        return [path for path in files if path not in known and path.suffix in states]

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            with suppress(OSError):  # a store that is away: no other session can take the lock over either
                self.check()
                self._write(self._held)

    def _write(self, path: Path) -> None:
        self._beats += 1
        with self._writing:
            if not self._released.is_set():
                record = json.dumps({**self._record, "beat": self._beats}).encode()
                self._storage.write(path, record.ljust(RECORD_BYTES))  # always as long, for those who read it meanwhile

    def _withdraw(self) -> None:
        with self._writing, suppress(OSError):  # of a store that is away: the next session waits a little, no more
            for path in (self._held, self._claim):
                self._storage.delete(path)


def held_by(title: str, holder: Mapping[str, Any]) -> UserError:
    """Returns the refusal to start beside another session."""
    who = f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}" if holder else "a session"
    return UserError(f"{title} is being run by {who}: wait until it ends, or stop it first")


def end_at_once(title: str) -> NoReturn:
    """Ends this process, of which another one took the lock: whatever it wrote now would damage the other's work."""
    message = f"error: {title} was taken over by another session while this one was paused or cut off: it ends here"
    print(message, file=sys.stderr, flush=True)
    os._exit(1)


def _process_space() -> str:
    """Returns what two processes share if the number of one means the same to the other."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not a Linux machine: only silence tells that a session is dead
        return uuid.uuid4().hex


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        record = json.loads(content)
    except ValueError:
        return {}  # the record is for messages only: whether its session lives, the changes of the file tell
    return record if isinstance(record, dict) else {}


def _has_died_here(record: Mapping[str, Any]) -> bool:
    if record.get("processes") != _process_space():
        return False
    try:
        os.kill(int(record["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # it lives, and is another user's
    return False
