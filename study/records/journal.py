"""Optuna's journal in a study's folder: how a session opens it, and how it drops a line that a crash left torn."""

import json
import logging
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from study.base.errors import UserError

log = logging.getLogger(__name__)
LOCK_SECONDS = 2.0
"""How long Optuna's lock of a live writer may last; it appends a few lines meanwhile."""


class StudyJournal(JournalFileBackend):
    """Optuna's own journal file, to which Optuna's own tools may append too, while the study runs.

    Args:
        check: is called before each append; it does not return if another session holds the study's lock.
    """

    def __init__(self, path: Path, check: Callable[[], None] | None = None) -> None:
        super().__init__(str(path), JournalFileOpenLock(str(path)))  # it needs no symbolic links
        self._path, self._check = path, check

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Adds records; they are on disk when this returns. Raises UserError if the file was removed meanwhile."""
        if self._check is not None:
            self._check()
        self._must_continue()
        super().append_logs(logs)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any]]:
        """Yields the records from a number on. Raises UserError if the file is damaged or was removed meanwhile."""
        self._must_continue()
        try:
            yield from super().read_logs(log_number_from)
        except ValueError as error:
            raise _damaged(self._path, error) from None

    def _must_continue(self) -> None:
        was_read = next(reversed(self._log_number_offset.values()))  # its work must not grow with the journal
        if not self._path.exists() or self._path.stat().st_size < was_read:
            raise UserError(f"{self._path} was removed or cut while the study ran: put a copy of it back")


def open_journal(path: Path, check: Callable[[], None] | None = None) -> JournalStorage:
    """Opens the journal, and makes it if there is none. Raises UserError if Optuna cannot read it."""
    try:
        return JournalStorage(StudyJournal(path, check))
    except (KeyError, TypeError, AttributeError) as error:  # whatever Optuna meets in a damaged record
        raise _damaged(path, error) from None


def repair(journal: Path) -> None:
    """Drops the last line if a crash left it torn, and says so. Only for the one who holds the study's lock.

    Optuna itself would append to half a line, and wait for the lock of a dead writer.
    """
    lock = Path(f"{journal}.lock")
    deadline = time.monotonic() + LOCK_SECONDS
    while os.path.lexists(lock) and time.monotonic() < deadline:
        time.sleep(0.05)  # a tool of Optuna's may be appending
    lock.unlink(missing_ok=True)
    raw = journal.read_bytes() if journal.exists() else b""
    whole = raw.rfind(b"\n", 0, len(raw) - 1) + 1
    if raw and not _is_record(raw[whole:]):
        log.warning("the last line of %s is damaged: it is left out", journal)
        with journal.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} is damaged ({type(error).__name__}: {str(error)[:100]}): put a copy of it back; MLflow has one of "
        "each session's end, among the artifacts of the study's run"
    )


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n") and isinstance(record, dict) and "op_code" in record
