"""Optuna's journal in a study's folder: what tells damage, and how it is made whole again."""

import json
import logging
import os
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from study.base.errors import UserError
from study.base.files import atomic_path
from study.records.sealed_files import copy_of

log = logging.getLogger(__name__)
LINE, CHECKSUM = "line", "crc32"
"""Added to each of Optuna's records, which Optuna passes over: its number, and the checksum of all else."""


class KeptJournal(JournalFileBackend):
    """A journal whose lines are numbered and carry a checksum, and that has a copy beside it, for `mend`.

    One process at a time may write it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._size = self._next = 0

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any]]:
        """Yields the records from a number on. Raises UserError at one that is damaged: `mend` comes first."""
        try:
            for record in super().read_logs(log_number_from):
                if not _is_whole(record):
                    raise ValueError("its checksum differs")
                yield record
        except ValueError as error:
            raise UserError(f"{self._path} is damaged ({error}): study.search --resume mends it") from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Adds records; they are on disk when this returns. Takes no lock, which a dead writer would leave behind."""
        if self._path.stat().st_size != self._size:
            self._next = max(_good_lines(self._path.read_bytes()), default=-1) + 1
        lines = b"".join(_line(_sealed(record, number)) for number, record in enumerate(logs, self._next))
        with self._path.open("ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
            self._size = file.tell()
        self._next += len(logs)
        with copy_of(self._path).open("ab") as file:
            file.write(lines)


def mend(journal: Path) -> None:
    """Makes a journal whole again, from its copy, and says so.

    Drops what a writer that died left of its last line: Optuna itself would append to half a line. Only for the one who
    holds the study's lock.

    Raises:
        UserError: if a line is damaged in the copy too.
    """
    copy = copy_of(journal)
    raw, raw_copy = (path.read_bytes() if path.exists() else b"" for path in (journal, copy))
    found = _good_lines(raw) if raw == raw_copy else _good_lines(raw_copy) | _good_lines(raw)
    lost = next((number for number in range(max(found, default=-1)) if number not in found), None)
    if lost is not None or (not found and b"\n" in raw):
        where = f"line {(lost or 0) + 1}" if found else "every line"
        raise UserError(f"{journal} is damaged at {where}, and so is {copy.name}: put a copy of one of them back")
    whole = b"".join(found[number] for number in sorted(found))
    if raw != whole and raw.startswith(whole):
        log.warning("the last line of %s is damaged: it is left out", journal)
    elif raw != whole:
        log.warning("%s is damaged: %s is used, and nothing is lost", journal, copy.name)
    for path, old in ((journal, raw), (copy, raw_copy)):
        if old != whole:
            with atomic_path(path, durable=True) as part:
                part.write_bytes(whole)


def _sealed(record: dict[str, Any], number: int) -> dict[str, Any]:
    record = record | {LINE: number}
    return record | {CHECKSUM: zlib.crc32(_line(record))}


def _good_lines(raw: bytes) -> dict[int, bytes]:
    """Returns the lines that are as they were written, by their numbers."""
    return {number: line for line in raw.splitlines(keepends=True) if (number := _number(line)) is not None}


def _number(line: bytes) -> int | None:
    """Returns the number of a line that is as it was written, of any other None."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record[LINE] if _is_whole(record) and line.endswith(b"\n") else None


def _is_whole(record: Any) -> bool:
    if not isinstance(record, dict):
        return False
    rest = {key: value for key, value in record.items() if key != CHECKSUM}
    return LINE in rest and record.get(CHECKSUM) == zlib.crc32(_line(rest))


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"
