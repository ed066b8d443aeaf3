"""Files that others see whole or not at all, and the folder of what can be made again."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study.base.errors import UserError

PART = ".part-"
"""How the names of folders begin that hold what is not finished; what a dead process left there is of no use."""


def cache_folder() -> Path:
    """Returns the folder of this machine's user for what can be made again; a temporary one if home is read-only."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for base in (home, Path(tempfile.gettempdir())):
        folder = base / "dynamic-dropout"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue  # the next one is tried; if none can be made, the error below says so
        if os.access(folder, os.W_OK):
            return folder
    raise UserError(f"neither {home} nor {tempfile.gettempdir()} can be written: set XDG_CACHE_HOME")


@contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Gives a path to write to, which takes the place of `path` at the end, or leaves nothing if that fails.

    A durable one is on the disk itself by then: a machine that loses its power has the old file or the new one.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=PART) as folder:
        part = Path(folder) / path.name
        yield part
        if durable:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        part.replace(path)
