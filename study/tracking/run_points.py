"""A run's evaluations and measures as points of metrics, read from its folder while it grows."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from study.base.errors import UserError
from study.records.storage import Storage
from study.training import measures_file
from study.training.evaluation_rows import METRICS_FILE, metrics_of, parse_rows
from study.training.measures_file import Measures

TIMES_FILE = "times.txt"
"""When each evaluation was made: a line with its step and its time in milliseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Point:
    """A value of a metric; `time_ms` is when it was measured, as far as known."""

    metric: str
    step: int
    value: float
    time_ms: int


def write_time(folder: Path, step: int, time_ms: int) -> None:
    """Adds the time of an evaluation to a run's folder."""
    with (folder / TIMES_FILE).open("ab", buffering=0) as file:
        file.write(f"{step} {time_ms}\n".encode())


class RunPoints:
    """Reads the points of a run. Its work depends on the lines that were added, not on those that it has read."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self._folder, self._storage = folder, storage
        self._rows, self._lines_of_times = _Tail(folder / METRICS_FILE), _Tail(folder / TIMES_FILE)
        self._times: dict[int, int] = {}
        self.last_step = -1

    def fetch(self) -> bool:
        """Copies what an object store has of the run here; returns whether the store answers."""
        try:
            for name in (METRICS_FILE, TIMES_FILE, measures_file.FILE) if self._storage.is_remote else ():
                with suppress(FileNotFoundError):  # the worker has not sent it yet, or does not measure
                    self._storage.fetch(self._folder / name)
        except OSError:  # the upload of the study's own files says so
            return False
        return True

    def read(self) -> list[Point]:
        """Returns the points that were added since the last call, and perhaps some that were returned before.

        A damaged line is left out. An evaluation without a time gets the time at which the file was last written.
        """
        rows = [row for row in parse_rows(self._rows.added()) if row is not None]
        for step, time_ms in _times(self._lines_of_times.added()):
            self._times.setdefault(step, time_ms)  # an evaluation that is made again keeps its time
        self.last_step = max((row["step"] for row in rows), default=self.last_step)
        found = [(name, row["step"], value) for row in rows for name, value in metrics_of(row).items()]
        try:
            measures = Measures.read(self._folder)
        except UserError:  # a damaged file: the driver reads it too, and says so
            measures = Measures()
        if self.last_step >= 0:
            found += [("full_val_loss", step, loss) for step, loss in measures.full_val_loss]
            found += [(name, self.last_step, value) for name, value in measures.final().items()]
        return [Point(*point, self._times.get(point[1], self._rows.written_ms)) for point in found]


class _Tail:
    """Reads the lines that were added to a file; all lines if another file has taken its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end, self._last = 0, b""  # where the last line that was read ends, and that line
        self.written_ms = int(time.time() * 1000)

    def added(self) -> list[bytes]:
        try:
            with self._path.open("rb") as file:
                self.written_ms = os.fstat(file.fileno()).st_mtime_ns // 1_000_000
                file.seek(self._end - len(self._last))
                raw = file.read()
                if raw.startswith(self._last):
                    raw = raw[len(self._last) :]
                else:
                    file.seek(0)
                    raw, self._end = file.read(), 0
        except FileNotFoundError:
            return []
        raw = raw[: raw.rfind(b"\n") + 1]  # a line that is being written comes the next time
        lines = raw.splitlines(keepends=True)
        if lines:
            self._end, self._last = self._end + len(raw), lines[-1]
        return lines


def _times(lines: Iterable[bytes]) -> Iterable[tuple[int, int]]:
    for line in lines:
        with suppress(ValueError):  # a damaged line
            step, time_ms = map(int, line.split())
            yield step, time_ms
