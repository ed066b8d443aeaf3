"""A queue of events on disk: what is not sent yet survives the process, and is sent by the next one."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Event = dict[str, Any]


class Spool:
    """Events as lines of JSON, appended by one thread and taken by another.

    How far they were sent is kept in a second file, after the sending: a crash between the two sends the last events
    again, which must do no harm.
    """

    def __init__(self, path: Path) -> None:
        self._sent_path = path.with_suffix(".sent")
        self._changed = threading.Condition()
        path.touch()
        self._sent = int(self._sent_path.read_text()) if self._sent_path.exists() else 0
        raw = path.read_bytes()
        whole = raw.rfind(b"\n") + 1  # a crash may have left half a line
        self._waiting: list[tuple[int, Event]] = []  # (size in bytes, event)
        for line in raw[self._sent : whole].splitlines(keepends=True):
            self._waiting.append((len(line), json.loads(line)))
        self._file = path.open("r+b")
        self._file.truncate(whole)
        self._file.seek(whole)

    def put(self, event: Event) -> None:
        """Adds an event; it is on disk when this returns."""
        line = (json.dumps(event) + "\n").encode()
        with self._changed:
            self._file.write(line)
            self._file.flush()
            self._waiting.append((len(line), event))
            self._changed.notify_all()

    def take(self, limit: int, timeout: float) -> Sequence[Event]:
        """Returns the oldest events, at most `limit`, without removing them; waits for one up to `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting), timeout)
            return [event for _, event in self._waiting[:limit]]

    def remove(self, n: int) -> None:
        """Removes the `n` oldest events: they were sent."""
        with self._changed:
            self._sent += sum(size for size, _ in self._waiting[:n])
            part = self._sent_path.with_suffix(".part")
            part.write_text(str(self._sent))
            part.replace(self._sent_path)
            del self._waiting[:n]
            self._changed.notify_all()

    def wait_empty(self, timeout: float) -> bool:
        """Waits until all is sent; False if that takes longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout)

    def close(self) -> None:
        """Closes the file; what is not sent stays in it."""
        with self._changed:
            self._file.close()


def last_sent(path: Path) -> Event | None:
    """Returns the last event of a spool if all of it was sent, else None."""
    sent = path.with_suffix(".sent")
    if not path.exists() or not sent.exists() or int(sent.read_text()) != path.stat().st_size:
        return None
    event: Event = json.loads(path.read_bytes().splitlines()[-1])
    return event
