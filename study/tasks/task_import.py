"""Imports the user's file as a module of a package of its own, whose name has the hash of its version.

The code in that folder imports the modules beside it by their plain names, as it does when it is run as a script. A
worker process runs one study after another: two versions of such a module must not mix, and one called `model` must
not be taken for this project's. So the import statements of that code, and of no other, find these modules first.
"""

import builtins
import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "_task_"


def import_file(folder: Path, file: str, version: str, names: frozenset[str]) -> ModuleType:
    """Imports a file of a folder, and the modules there that it imports, anew: their globals are as in a new process.

    Args:
        version: the hash of all files in the folder.
        names: the modules and packages of the folder.
    """
    package = f"{PREFIX}{version[:32]}"
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
    importlib.invalidate_caches()
    sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "package", None) != package]
    sys.meta_path.insert(0, _Finder(package, names))
    root = ModuleType(package)
    root.__path__ = [str(folder)]
    sys.modules[package] = root
    return importlib.import_module(f"{package}.{file.removesuffix('.py')}")


class _Finder(MetaPathFinder):
    """Finds the modules of one package, as Python does, and has their import statements changed."""

    def __init__(self, package: str, names: frozenset[str]) -> None:
        self.package, self._names = package, names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{self.package}."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.origin, self.package, self._names)
        return spec


class _Loader(SourceFileLoader):
    """Gives a module an `__import__` of its own before it runs."""

    def __init__(self, fullname: str, path: str, package: str, names: frozenset[str]) -> None:
        super().__init__(fullname, path)
        self._package, self._names = package, names

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = vars(builtins) | {"__import__": self._import}
        super().exec_module(module)

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        if level or top not in self._names:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        found = builtins.__import__(f"{self._package}.{name}", globals, locals, fromlist or (), 0)
        return found if fromlist else sys.modules[f"{self._package}.{top}"]
