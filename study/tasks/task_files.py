"""The user's own task as files: its Python file and the modules beside it, which a study keeps and sends to workers."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from model.checks import short
from study.base.errors import UserError
from study.base.files import atomic_path, cache_folder
from study.tasks.task_import import import_file
from study.tasks.task_source import check_function

MAX_FILES, MAX_BYTES = 300, 5_000_000
INDEX = "task.json"
"""In the kept folder: the task's name, and the SHA-256 of each file."""
FORM = "give FILE.py:FUNCTION, such as my_task.py:train"
_NO_PACKAGES = ("__pycache__", "node_modules", "site-packages")


@dataclass(frozen=True)
class TaskFiles:
    """The user's file, the modules and packages beside it, and the function to call.

    Attributes:
        file: the name of the user's file, without a folder.
        function: the name of the function in it.
        contents: the bytes of each file, by its path relative to the user's file, with `/`.
    """

    file: str
    function: str
    contents: Mapping[str, bytes]

    @property
    def name(self) -> str:
        """The task as a config names it: `my_task.py:train`."""
        return f"{self.file}:{self.function}"

    @property
    def sha256(self) -> str:
        """Of the names and contents of all files."""
        digest = hashlib.sha256()
        for name, content in sorted(self.contents.items()):
            for part in (name.encode(), content):
                digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()

    def write(self, folder: Path) -> list[Path]:
        """Writes the files into a folder, with an index; returns all paths. `read_kept` reads them again."""
        paths = _unpack(self.contents, folder)
        index = {"task": self.name, "files": {name: _digest(content) for name, content in self.contents.items()}}
        with atomic_path(folder / INDEX, durable=True) as part:
            part.write_text(json.dumps(index, indent=1), encoding="utf-8")
        return [*paths, folder / INDEX]

    def load(self) -> Callable[[Any], object]:
        """Imports the user's file anew, from a copy in this machine's cache, and returns the function.

        Modules beside the file are imported anew too, and never mix with other versions of them in this process.

        Raises:
            UserError: if the file has no such function. The file's own errors come as they are.
        """
        folder = cache_folder() / "tasks" / self.sha256
        _unpack(self.contents, folder)
        module = import_file(folder, self.file, self.sha256, _top_names(self.contents))
        function = getattr(module, self.function, None)
        if not callable(function):
            found = "no such function" if function is None else f"{short(function)}, which cannot be called"
            raise UserError(f"--task {self.name}: the file has {found}: {FORM}")
        called: Callable[[Any], object] = function
        return called


def read_task_files(task: str) -> TaskFiles:
    """Reads FILE.py:FUNCTION and the modules beside it, without importing them.

    Packages are folders with an `__init__.py`. Hidden folders, virtual environments and caches are left out.

    Raises:
        UserError: if there is no such file or function, it has a syntax error or other parameters than one, or if
            there are too many modules beside it.
    """
    file, colon, function = task.rpartition(":")
    if not colon or not file.endswith(".py") or not function.isidentifier():
        raise UserError(f"--task must be FILE.py:FUNCTION, got {short(task)}: {FORM}")
    path = Path(file)
    if not path.stem.replace("-", "_").isidentifier():
        raise UserError(f"--task {task}: Python cannot import a file of the name {path.name}: rename it")
    source = _read(path, task)
    check_function(source, function, task)
    contents = {path.name: source}
    size = len(source)
    for module in _modules(path.parent):
        name = module.relative_to(path.parent).as_posix()
        if name == path.name:
            continue
        if len(contents) == MAX_FILES or size + module.stat().st_size > MAX_BYTES:
            raise UserError(
                f"--task {task}: beside {path.name} are more than {MAX_FILES} Python files or {MAX_BYTES / 1e6:.0f} MB "
                "of them, all of which the study would keep: put it into a folder with only the modules that it needs"
            )
        contents[name] = _read(module, task)
        size += len(contents[name])
    return TaskFiles(path.name, function, dict(sorted(contents.items())))


def read_kept(folder: Path) -> TaskFiles:
    """Reads the files that `TaskFiles.write` wrote.

    Raises:
        UserError: if one is not there, or is not as it was written.
    """
    try:
        index = json.loads((folder / INDEX).read_bytes())
        file, _, function = index["task"].rpartition(":")
        contents = {name: (folder / name).read_bytes() for name in index["files"] if _is_inside(name)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{INDEX} is damaged"
        raise UserError(f"the study's copy of its task in {folder} cannot be read: {reason}") from None
    if changed := [name for name, digest in index["files"].items() if _digest(contents.get(name, b"")) != digest]:
        raise UserError(f"the study's copy of its task in {folder} was changed: {changed[0]}")
    return TaskFiles(file, function, contents)


def _read(path: Path, task: str) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"--task {task}: {path} is no regular file: {FORM}")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        raise UserError(f"--task {task}: {path} cannot be read ({getattr(error, 'strerror', error)}): {FORM}") from None


def _modules(folder: Path) -> Iterator[Path]:
    """Yields the Python files of a folder and of the packages in it, in a fixed order."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file():
            if path.suffix == ".py":
                yield path
        elif _is_package(path):
            yield from _modules(path)


def _is_package(path: Path) -> bool:
    if path.is_symlink() or not path.name.isidentifier() or path.name in _NO_PACKAGES:  # a link may lead in a circle
        return False
    return (path / "__init__.py").is_file() and not (path / "pyvenv.cfg").exists()


def _unpack(contents: Mapping[str, bytes], folder: Path) -> list[Path]:
    """Writes each file unless it is there already; other processes may do the same."""
    paths = [folder / name for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != content:
            with atomic_path(path) as part:
                part.write_bytes(content)
    return paths


def _top_names(contents: Mapping[str, bytes]) -> frozenset[str]:
    """Returns the names by which modules beside the file are imported."""
    return frozenset(PurePosixPath(name).parts[0].removesuffix(".py") for name in contents)


def _is_inside(name: str) -> bool:
    """Whether a name from an index leads to a file in the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name} leads out of the folder")
    return True


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
