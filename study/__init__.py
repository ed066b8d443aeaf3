"""How the study is run, kept and shown.

`python -m` puts the working folder first in the path of imports, and nanoGPT, for one, has a `model.py` there: the
packages `model` and `search_spaces` are looked for beside this one, and nowhere else.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_BESIDE = ("model", "search_spaces")


class _Beside:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Finds one of our packages beside this one; Python asks here first."""
        return PathFinder.find_spec(name, [str(Path(__file__).resolve().parent.parent)]) if name in _BESIDE else None


if _Beside.__name__ not in {getattr(finder, "__name__", "") for finder in sys.meta_path}:
    sys.meta_path.insert(0, _Beside)
