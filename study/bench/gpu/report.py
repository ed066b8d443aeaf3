"""The numbers of a GPU session: each is printed as soon as it is known, and kept as JSON."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Number = float | int | bool | str


class Report:
    """Prints numbers with the time since the start, and writes all of them to a JSON file after each."""

    def __init__(self, path: Path) -> None:
        self._path, self._start = path, time.perf_counter()
        self.numbers: dict[str, Number] = {}

    def add(self, name: str, value: Number, note: str = "") -> None:
        """Adds a number; `note` is printed only."""
        self.numbers[name] = value
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        print(f"[{time.perf_counter() - self._start:5.0f} s] {name:<44} {shown} {note}", flush=True)
        self._path.write_text(json.dumps(self.numbers, indent=1))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Turns an error into a number: a session on a lent machine goes on with its next stage."""
        try:
            yield
        except Exception as error:
            self.add(f"{name}_failed", f"{type(error).__name__}: {str(error)[:600]}")
