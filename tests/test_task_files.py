"""The user's own task as files: what is read, refused, kept and imported."""

import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from study.base.errors import UserError
from study.tasks import task_files
from study.tasks.task_files import TaskFiles, read_kept, read_task_files

TASK = "from tools import VALUE\n\ndef train(run):\n    from model import NAME\n    return VALUE, NAME, run\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make(folder: Path, value: str = "1", **more: str) -> str:
    """A task with two modules beside it, one of which has the name of a package of this project."""
    files = {"my_task.py": TASK, "tools.py": f"VALUE = {value}\n", "model.py": f"NAME = 'mine {value}'\n"} | more
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return f"{folder / 'my_task.py'}:train"


def refusal(task: str) -> str:
    with pytest.raises(UserError) as refused:
        read_task_files(task)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_the_file_and_the_modules_and_packages_beside_it_are_read(tmp_path: Path) -> None:
    others = {
        "layers/__init__.py": "", "layers/deep/__init__.py": "", "layers/deep/norm.py": "", "layers/weights.bin": "",
        "notes.txt": "", ".hidden.py": "", ".git/__init__.py": "", "data/script.py": "", "venv/__init__.py": "",
        "venv/pyvenv.cfg": "", "__pycache__/__init__.py": "", "no-package/__init__.py": "",
    }  # fmt: skip
    files = read_task_files(make(tmp_path, **others))
    assert set(files.contents) == {
        "my_task.py", "tools.py", "model.py", "layers/__init__.py", "layers/deep/__init__.py", "layers/deep/norm.py",
    }  # fmt: skip
    assert files.contents["my_task.py"] == TASK.encode()
    assert files.name == "my_task.py:train"
    assert pickle.loads(pickle.dumps(files)) == files


def test_the_hash_follows_names_and_contents(tmp_path: Path) -> None:
    first = read_task_files(make(tmp_path / "a"))
    assert read_task_files(make(tmp_path / "b")).sha256 == first.sha256
    changed = [
        make(tmp_path / "c", "2"),
        make(tmp_path / "d", **{"more.py": ""}),
        make(tmp_path / "e", **{"tools.py": "VALUE = 1\nNAME", "model.py": " = 'mine 1'\n"}),
    ]
    assert len({first.sha256, *(read_task_files(task).sha256 for task in changed)}) == 4


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("my_task.py", "got 'my_task.py': give FILE.py:FUNCTION"),
        ("my_task.txt:train", "must be FILE.py:FUNCTION"),
        ("my_task.py:", "must be FILE.py:FUNCTION"),
        ("my_task.py:a-b", "must be FILE.py:FUNCTION"),
        ("gone.py:train", "gone.py cannot be read (No such file or directory)"),
        ("folder.py:train", "folder.py is no regular file"),
        ("my.task.py:train", "Python cannot import a file of the name my.task.py"),
        ("bad.py:train", "line 2 of the file: expected ':'"),
        ("zero.py:train", "no Python text"),
        ("my_task.py:traim", "has no function traim; its functions: train"),
        ("args.py:none", "none must take one argument: def none(run)"),
        ("args.py:two", "two must take one argument"),
        ("args.py:keyword", "keyword must take one argument"),
        ("args.py:later", "later is an async function"),
        ("args.py:generator", "generator has a yield: call run.report(...)"),
    ],
)
def test_a_mistake_is_refused_in_one_line(
    task: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (
        "def none(): ...\ndef two(run, other): ...\ndef keyword(run, *, other): ...\nasync def later(run): ...\n"
        "def generator(run):\n    for step in run.steps():\n        yield step\n"
    )
    more = {"bad.py": "x = 1\nif x\n", "zero.py": "x = '\0'", "my.task.py": TASK, "args.py": arguments}
    make(tmp_path, **more)
    (tmp_path / "folder.py").mkdir()
    monkeypatch.chdir(tmp_path)
    assert says in refusal(task)


@pytest.mark.parametrize(
    "text",
    [
        "def train(run, extra=1, *, more=2): ...",
        "def train(*runs): ...",
        "train = lambda run: None",
        "from tools import *",
        "from tools import start as train",
        "class train:\n    def __init__(self, run): ...",
        "def train(run):\n    def inner():\n        yield 1\n    return inner",
        "import functools\n@functools.partial\ndef train(a, b): ...",
    ],
)
def test_any_name_that_can_be_called_with_a_run_is_taken(text: str, tmp_path: Path) -> None:
    assert read_task_files(make(tmp_path, **{"my_task.py": text})).function == "train"


def test_too_many_modules_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make(tmp_path)
    monkeypatch.setattr(task_files, "MAX_FILES", 2)
    assert "more than 2 Python files" in refusal(task)
    monkeypatch.setattr(task_files, "MAX_FILES", 3)
    size = sum(len(content) for content in read_task_files(task).contents.values())
    monkeypatch.setattr(task_files, "MAX_BYTES", size - 1)
    assert "put it into a folder with only the modules that it needs" in refusal(task)


def test_a_kept_copy_is_equal_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    files = read_task_files(make(tmp_path, **{"layers/__init__.py": "x = 1\r\n"}))
    kept = tmp_path / "kept"
    paths = files.write(kept)
    assert {path.relative_to(kept).as_posix() for path in paths} == {*files.contents, "task.json"}
    assert read_kept(kept) == files
    (kept / "tools.py").write_text("VALUE = 3\n")
    with pytest.raises(UserError, match=r"was changed: tools\.py$"):
        read_kept(kept)
    (kept / "tools.py").unlink()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_kept(kept)
    (kept / "task.json").write_text('{"task": "my_task.py:train", "files": {"../my_task.py": "0"}}')
    with pytest.raises(UserError, match=r"task\.json is damaged"):
        read_kept(kept)


def test_versions_of_a_module_do_not_mix_in_one_process(tmp_path: Path) -> None:
    first, second = (read_task_files(make(tmp_path / value, value)) for value in "12")
    before = dict(sys.modules)
    functions = [files.load() for files in (first, second, first)]
    assert [function("run") for function in functions] == [
        (1, "mine 1", "run"), (2, "mine 2", "run"), (1, "mine 1", "run"),
    ]  # fmt: skip
    assert {name for name in sys.modules if name in ("tools", "my_task")} <= before.keys()
    assert sys.modules["model"] is before["model"], "this project's package stays"


def test_globals_are_new_each_time_and_damaged_cache_files_are_replaced(tmp_path: Path) -> None:
    counting = "from tools import SEEN\ndef train(run):\n    SEEN.append(run)\n    return SEEN\n"
    files = read_task_files(make(tmp_path, "[]", **{"my_task.py": counting, "tools.py": "SEEN = []\n"}))
    assert files.load()(1) == [1]
    (copy,) = (tmp_path / "cache").rglob("tools.py")
    copy.write_text("SEEN = ['damaged']\n")
    assert files.load()(2) == [2]


def test_packages_and_relative_imports_work(tmp_path: Path) -> None:
    more = {
        "layers/__init__.py": "from .norm import A\nfrom layers import norm\n",
        "layers/norm.py": "import tools\nA = tools.VALUE\n",
        "my-task.py": (
            "import layers.norm\nimport layers.norm as direct\nfrom layers import norm\nfrom .tools import VALUE\n"
            "import os.path\n"
            "def train(run):\n    return layers.norm is direct is norm, layers.A, VALUE, os.path.sep\n"
        ),
    }
    make(tmp_path, "7", **more)
    assert read_task_files(f"{tmp_path / 'my-task.py'}:train").load()(None) == (True, 7, 7, "/")


def test_errors_of_the_file_itself_come_as_they_are(tmp_path: Path) -> None:
    def load(text: str) -> Any:
        return read_task_files(make(tmp_path, **{"my_task.py": text})).load()

    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load("import no_such_module\ndef train(run): ...")
    with pytest.raises(UserError, match="has 3, which cannot be called"):
        load("train = 3")
    with pytest.raises(UserError, match="has no such function"):
        load("from tools import *")
    assert isinstance(read_task_files(make(tmp_path)), TaskFiles)
