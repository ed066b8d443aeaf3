"""A queue of events on disk: what is not sent yet survives the process, and is sent by the next one."""

import io
import json
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
Event = dict[str, Any]
LOOK_SECONDS = 0.1
"""How often who waits looks whether its deadline has changed."""


class UselessError(Exception):
    """What could never be sent."""


class TooEarlyError(Exception):
    """What can be sent when a worker has written it."""


class Spool:
    """Events as lines, each a checksum and JSON, appended by one thread and taken by another. None is ever erased.

    They may be sent out of their order. Up to where all were sent is kept in a second file, after the sending: a crash
    sends some events again, which must do no harm. `past` has all events that were put before, sent or not; a line that
    is damaged is left out, and this is said; `is_damaged` is whether there was one.
    """

    def __init__(self, path: Path) -> None:
        self._sent_path = path.with_suffix(".sent")
        self._changed = threading.Condition()
        path.touch()
        raw = path.read_bytes()
        self._end = raw.rfind(b"\n") + 1  # a crash may have left half a line
        self._all, self.is_damaged = _events(path, raw[: self._end])
        self._sent = min(_offset(self._sent_path), self._end)
        self._next = sum(end <= self._sent for end, _ in self._all)
        self._ahead: set[int] = set()  # places of those that were sent while an older one was not
        self.past: Sequence[Event] = [event for _, event in self._all]
        self._file = path.open("r+b", buffering=0)
        self._file.truncate(self._end)
        self._file.seek(self._end)

    @property
    def any_sent(self) -> bool:
        """Whether something was ever sent."""
        return self._sent > 0

    def put(self, event: Event) -> None:
        """Adds an event; it is on disk when this returns. Raises the OSError of a full disk, and adds nothing then."""
        line = _line(event)
        with self._changed:
            try:
                written = 0
                while written < len(line):
                    written += self._file.write(line[written:])
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(self._end)
                self._file.seek(self._end)
                raise
            self._end += len(line)
            self._all.append((self._end, event))
            self._changed.notify_all()

    def take(self, limit: int, timeout: float) -> list[tuple[int, Event]]:
        """Returns the oldest events that are not sent, at most `limit`, by their places; waits for one up to `timeout`
        seconds."""
        with self._changed:
            self._changed.wait_for(self._is_waiting, timeout)
            waiting = (i for i in range(self._next, len(self._all)) if i not in self._ahead)
            return [(i, self._all[i][1]) for i in islice(waiting, limit)]

    def remove(self, places: Iterable[int]) -> None:
        """Removes the events at these places: they were sent. If it is closed, the next process sends them again."""
        with self._changed:
            if self._file.closed:
                return
            self._ahead.update(places)
            before = self._next
            while self._next in self._ahead:
                self._ahead.remove(self._next)
                self._next += 1
            if self._next > before:
                self._note_sent(self._all[self._next - 1][0])

    def rewind(self) -> None:
        """Takes all events as not sent: who had them has lost them."""
        with self._changed:
            self._next = 0
            self._ahead.clear()
            self._note_sent(0)

    def wait_empty(self, deadline: Callable[[], float]) -> bool:
        """Waits until all is sent; False if that is not before the deadline, of `time.monotonic`, which may change."""
        with self._changed:
            while self._is_waiting() and (left := deadline() - time.monotonic()) > 0:
                self._changed.wait(min(left, LOOK_SECONDS))
            return not self._is_waiting()

    def close(self) -> None:
        """Closes the file; what is not sent stays in it."""
        with self._changed:
            self._file.close()

    def _is_waiting(self) -> bool:
        return self._next < len(self._all)

    def _note_sent(self, offset: int) -> None:
        self._sent = offset
        part = self._sent_path.with_suffix(".part")
        try:
            part.write_bytes(_line(offset))
            part.replace(self._sent_path)
        except OSError:
            pass  # a full disk: the next process sends the same again, and that changes nothing
        self._changed.notify_all()


def last_sent(path: Path) -> Event | None:
    """Returns the last event of a spool if all of it was sent, else None."""
    if not path.exists() or _offset(path.with_suffix(".sent")) != path.stat().st_size:
        return None
    events, _ = _events(path, path.read_bytes())
    return events[-1][1] if events else None


def _line(content: Event | int) -> bytes:
    text = json.dumps(content).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _is_whole(line: bytes) -> bool:
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    return checksum == b"%08x" % zlib.crc32(text)


def _events(path: Path, raw: bytes) -> tuple[list[tuple[int, Event]], bool]:
    """Returns (offset of its end, event) of each good line, and whether there are others."""
    events, end, is_damaged = [], 0, False
    for number, line in enumerate(io.BytesIO(raw), start=1):
        end += len(line)
        if _is_whole(line):
            events.append((end, json.loads(line.partition(b" ")[2])))
        else:
            is_damaged = True
            log.warning("%s is damaged at line %d: what it said is taken from the trials' own files", path, number)
    return events, is_damaged


def _offset(sent: Path) -> int:
    try:
        raw = sent.read_bytes()
    except FileNotFoundError:
        return 0
    return int(raw.split()[1]) if _is_whole(raw) else 0  # sending all again changes nothing
