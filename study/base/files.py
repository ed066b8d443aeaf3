"""Files that others see whole or not at all, and the folder of what can be made again."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from study.base.errors import UserError

PART = ".part-"
"""How the names of folders begin that hold what is not finished; what a dead process left there is of no use."""


def cache_folder() -> Path:
    """Returns the folder of this machine's user for what can be made again; a temporary one without a usable home."""
    temporary = Path(tempfile.gettempdir(), f"dynamic-dropout-{os.geteuid()}")
    tried = []
    for folder in (*_home_cache(), temporary):
        with suppress(OSError):  # whether it is there is looked at next
            folder.mkdir(mode=0o700 if folder == temporary else 0o777, parents=True, exist_ok=True)
        if folder.is_dir() and os.access(folder, os.W_OK) and (folder != temporary or _is_ours(folder)):
            return folder
        tried.append(str(folder))
    raise UserError(f"no cache folder can be written ({', '.join(tried)}): set HOME or XDG_CACHE_HOME to one that can")


def _home_cache() -> tuple[Path, ...]:
    if given := os.environ.get("XDG_CACHE_HOME"):
        return (Path(given).absolute() / "dynamic-dropout",)
    try:
        return (Path.home() / ".cache" / "dynamic-dropout",)
    except RuntimeError:  # a container's user without HOME and without an entry in passwd
        return ()


def _is_ours(folder: Path) -> bool:
    """Whether no one else could have put files into a folder that lies where every user may write."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def check_output_file(path: Path, flag: str = "--output") -> None:
    """Raises UserError if a file cannot be written at a path: it would take the place of a device, too."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise UserError(f"{flag} {path} is {kind}: give the path of a file")
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {path} cannot be written: give --output, a file in a folder that exists and can be")


def check_output_folder(path: Path, flag: str) -> None:
    """Raises UserError if a folder cannot be made or written at a path."""
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise UserError(f"{flag} {path}: {existing} is a file: give a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {path} cannot be written ({existing}): give a folder that can")


@contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Gives a path to write to, which takes the place of `path` at the end, or leaves nothing if that fails.

    A durable one is on the disk itself by then: a machine that loses its power has the old file or the new one.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=PART) as folder:
        part = Path(folder) / path.name
        yield part
        (like_others := Path(folder, ".mode")).touch()  # by the user's mask; safetensors closes its files to a group
        part.chmod(stat.S_IMODE(like_others.stat().st_mode))
        if durable:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        part.replace(path)
