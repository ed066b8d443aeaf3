"""A study belongs to one session at a time: the lock that it holds, and how the lock of a dead one is recognised."""

import contextlib
import fcntl
import json
import os
import platform
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from study.base.errors import UserError
from study.base.provenance import utc_now
from study.records.storage import Storage
from study.records.store_lock import StoreLock, end_at_once, held_by

BEAT_SECONDS = 3.0
SILENT_SECONDS = 12.0
"""A session on another machine that has not counted up for this long is dead."""
RECORD_BYTES = 512
CLAIMS = ".locks"
"""The end of the name of the folder in an object store that holds the files of a `StoreLock`."""


class StudyLock:
    """Held by the session that may write a study, from its making to `release`, or until its process is gone.

    The operating system's lock on the file decides wherever it reaches, since it vanishes with its process. Not every
    shared file system passes it on to other machines: so the holder counts up in the file as well, and one on another
    machine is dead when it does not. The clocks of two machines are never compared. A holder that was paused may have
    been taken for dead: it looks into the file before it counts up, and ends if another session holds the lock.

    Args:
        title: the thing that is locked, in a message.
        storage: where the study is kept; in an object store, other machines look for the lock there (`StoreLock`).

    Raises:
        UserError: if another session holds it; says which.
    """

    def __init__(self, path: Path, title: str | None = None, storage: Storage | None = None) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): the study needs a folder that can") from None
        self._title = title or f"study {path.parent.name}"
        self._record = {"pid": os.getpid(), "host": platform.node(), "since": utc_now()}
        self._token = uuid.uuid4().hex
        self._beats = 0
        self._is_written = False
        self._released = threading.Event()
        self._writing = threading.Lock()
        self._in_store: StoreLock | None = None
        try:
            self._take()
            if storage is not None and storage.is_remote:
                self._in_store = StoreLock(storage, path.with_suffix(CLAIMS), self._record, self._title)
        except BaseException:
            os.close(self._file)
            raise
        self._beat()
        threading.Thread(target=self._count_up, name="study-lock", daemon=True).start()

    def __enter__(self) -> "StudyLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Lets another session have the study."""
        if self._in_store is not None:
            self._in_store.release()
        with self._writing:
            if not self._released.is_set():
                self._released.set()
                os.ftruncate(self._file, 0)
                os.close(self._file)

    def check(self) -> None:
        """Ends this process at once if another session has taken the lock over."""
        with self._writing:
            self._check()

    def check_in_store(self) -> None:
        """Does the same for the lock in the object store. Raises OSError if that does not answer."""
        if self._in_store is not None:
            self._in_store.check()

    def _check(self) -> None:
        if self._is_written and not self._released.is_set() and _read(self._file).get("token") != self._token:
            end_at_once(self._title)

    def _take(self) -> None:
        reaches = True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise held_by(self._title, _read(self._file)) from None
        except OSError:  # a file system without locks: the counting alone decides
            reaches = False
        holder = _read(self._file)
        if holder and not (reaches and holder.get("host") == platform.node()):
            deadline = time.monotonic() + SILENT_SECONDS
            while time.monotonic() < deadline:
                time.sleep(BEAT_SECONDS / 3)
                if _read(self._file) not in (holder, {}):
                    raise held_by(self._title, holder)

    def _count_up(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            self._beat()

    def _beat(self) -> None:
        self._beats += 1
        record = json.dumps(self._record | {"token": self._token, "beat": self._beats}).encode()
        with self._writing, contextlib.suppress(OSError):  # a full disk does not touch the lock itself
            if not self._released.is_set():
                self._check()
                os.pwrite(self._file, record.ljust(RECORD_BYTES - 1) + b"\n", 0)
                self._is_written = True


def _read(file: int) -> dict[str, Any]:
    """Returns who wrote last into a lock's file, and how far it had counted; nothing if it was released."""
    try:
        record = json.loads(os.pread(file, RECORD_BYTES, 0))
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
