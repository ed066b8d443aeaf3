"""Folders as users have them: awkward names, other people's files in them, copied, moved, shared with a group."""

import os
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies
from mlflow.entities import Run

from model.schedules import Constant
from study.base.uris import absolute, kept, recalled, sqlite_path, sqlite_uri
from study.corpus import load_corpus
from study.tracking.client import check, connect, is_ui_default, tracking_uri
from study.tracking.local_store import artifact_location
from study.training.config import PRESETS
from study.training.evaluation_rows import Labels
from study.training.run_folder import RunFolder
from study.training.trainer import Trainer
from tests.clean_environment import ROOT, environment
from tests.conftest import Study, run, start

AWKWARD = 'My Stüdies #1 50%41: it\'s "x"?'
ESCAPES = "to be \x1b]0;title\x07 or \x1b[2J not \x9b to be\n"
COMMAND = """#!{python}
import os, sys
from study.{module} import command
os.umask(0o002)
sys.exit(command())
"""
"""What pip makes of an entry of [project.scripts], and the mask of a group that shares a folder."""
OURS = ("model.py", "search_spaces.py", "study.py")


@settings(deadline=None, derandomize=True, database=None)
@given(strategies.text(strategies.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_an_sqlite_uri_and_its_path(name: str) -> None:
    path = Path("/projects", name, "mlflow.db")
    assert sqlite_path(sqlite_uri(path)) == path
    assert sqlite_path(sqlite_uri(path, "timeout=5")) == path
    assert sqlite_uri(path, "timeout=5").endswith("?timeout=5")


def test_a_uri_as_mlflow_prints_it_is_understood() -> None:
    assert sqlite_path("sqlite:////home/My%20Studies/mlflow.db") == Path("/home/My Studies/mlflow.db")
    assert sqlite_path("sqlite:////home/My Studies/mlflow.db") == Path("/home/My Studies/mlflow.db")
    assert sqlite_path("postgresql://host/db") is None


def test_a_store_in_the_working_folder_is_the_one_beside_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old := tmp_path / "old").mkdir()
    monkeypatch.chdir(old)
    remembered = kept(absolute("sqlite:///mlflow.db?timeout=5"), old / "studies" / "x")
    assert remembered == "sqlite:///../../mlflow.db?timeout=5"
    assert recalled(remembered, tmp_path / "new" / "studies" / "x") == f"sqlite:///{tmp_path}/new/mlflow.db?timeout=5"
    elsewhere = "sqlite:////data/mlflow.db"
    assert recalled(kept(elsewhere, old / "studies" / "x"), tmp_path / "new") == elsewhere
    beside = absolute("sqlite:///mlflow.db")
    assert kept(beside, tmp_path / "studies" / "x") == beside, "the study does not lie in the working folder"
    assert kept(beside, None) == beside, "other machines read the config"


def test_the_default_store_where_an_older_mlflow_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (folder := tmp_path / AWKWARD).mkdir()
    monkeypatch.chdir(folder)
    assert sqlite_path(tracking_uri(None)) == folder / "mlflow.db"
    assert is_ui_default(tracking_uri(None))
    (folder / "mlruns" / "0").mkdir(parents=True)
    (folder / "mlruns" / "0" / "meta.yaml").touch()
    assert sqlite_path(tracking_uri(None)) == folder / "mlflow.db"
    assert not is_ui_default(tracking_uri(None)), "a plain `mlflow ui` would look into mlruns"


def test_a_page_copied_from_a_browser_names_its_server() -> None:
    assert tracking_uri("http://host:5000/#/experiments/0") == "http://host:5000"
    assert tracking_uri("https://host/mlflow/#/experiments/0/runs?x=y") == "https://host/mlflow"


def test_a_store_and_its_artifacts_that_are_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (old := tmp_path / AWKWARD).mkdir()
    (old / "note.txt").write_text("kept")
    monkeypatch.chdir(old)
    uri = absolute("sqlite:///mlflow.db")
    check(uri, create=True)
    client = connect(uri)
    run_id = client.create_run(client.create_experiment("x", artifact_location(uri, "x"))).info.run_id
    client.log_artifact(run_id, "note.txt")
    assert list(tmp_path.iterdir()) == [old], "nothing is written elsewhere"
    assert len(list(old.glob("mlruns/x/*/artifacts/note.txt"))) == 1

    shutil.copytree(old, new := tmp_path / "new")
    place = connect(absolute("sqlite:///mlflow.db", new)).get_run(run_id).info.artifact_uri
    assert place == (new / "mlruns" / "x" / run_id / "artifacts").as_uri(), "the copy uses the old folder"
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(old)
    shutil.copytree(new, alone := tmp_path / "alone")
    shutil.rmtree(alone / "mlruns")
    shutil.rmtree(new)
    place = connect(absolute("sqlite:///mlflow.db", alone)).get_run(run_id).info.artifact_uri
    assert place == (alone / "mlruns" / "x" / run_id / "artifacts").as_uri(), "the old folder is made anew"


def test_the_users_mask_holds_for_all_files_of_a_run(tmp_path: Path) -> None:
    training = replace(PRESETS["smoke"].training, steps=20)
    trainer, folder = Trainer(training, Constant(0.1), load_corpus("shakespeare")), RunFolder(tmp_path / "run")
    before = os.umask(0o002)
    try:
        folder.path.mkdir()
        run = folder.run(trainer, Labels())
        for _ in range(3):
            next(run)
    finally:
        os.umask(before)
    made = {path: stat.S_IMODE(path.stat().st_mode) for path in folder.path.rglob("*")}
    assert {path.name for path in made} >= {"model.safetensors", "metrics.jsonl", "config.yaml", "resume", "state.pt"}
    assert {path: mode for path, mode in made.items() if mode != (0o775 if path.is_dir() else 0o664)} == {}


@dataclass(frozen=True)
class Project:
    """A folder in which a study was run, and the commands that it printed."""

    folder: Path
    bin: Path
    output: str

    def run(self, name: str, *arguments: str, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Runs an installed command in the folder."""
        return run([str(self.bin / f"dropout-{name}"), *arguments], folder or self.folder)

    def command(self, title: str) -> str:
        """Returns a command as it stands in the output."""
        (line,) = [line for line in self.output.splitlines() if line.startswith(title)]
        return line.removeprefix(title).strip()

    def trials(self) -> list[Run]:
        client = connect(absolute("sqlite:///mlflow.db", self.folder))
        experiment = client.get_experiment_by_name("x")
        assert experiment is not None
        return list(client.search_runs([experiment.experiment_id], "tags.role = 'trial'"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A study in a folder with an awkward name, a mask of a group, and files that seem to be ours, or MLflow's."""
    folder = tmp_path_factory.mktemp("group") / AWKWARD
    folder.mkdir()
    modules = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    (scripts := tmp_path_factory.mktemp("bin")).chmod(0o755)
    for name, module in modules.items():
        (scripts / name).write_text(COMMAND.format(python=sys.executable, module=module.removesuffix(":command")[6:]))
        (scripts / name).chmod(0o755)
    for name in OURS:
        (folder / name).write_text("raise RuntimeError('this is the user\\'s own')\n")
    (folder / "mlruns" / "0").mkdir(parents=True)
    (folder / "mlruns" / "0" / "meta.yaml").write_text("artifact_location: here\n")
    (folder / "text.txt").write_text(ESCAPES * 200)
    smoke = ["--preset", "smoke", "--gpus", "0", "--trials", "2", "--steps", "20", "--name", "x"]
    project = Project(folder, scripts, "")
    done = project.run("search", *smoke, "--corpus", "text.txt", "--storage", "my studies")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout, done.stdout
    return replace(project, output=done.stdout)


@pytest.mark.slow
def test_a_study_in_an_awkward_folder(project: Project) -> None:
    assert {path.name for path in project.folder.parent.iterdir()} == {AWKWARD}, "nothing is written elsewhere"
    assert all(run.data.tags["outcome"] == "completed" for run in project.trials())
    assert "\x1b" not in project.output, "the sample's control characters reach the terminal"
    assert "\x9b" not in project.output
    samples = [path.read_text() for path in project.folder.glob("my studies/x/trials/*/sample.txt")]
    assert any("\x1b" in sample for sample in samples), "the file keeps them"
    for path in (project.folder / "my studies" / "x").rglob("*"):
        assert path.stat().st_mode & 0o060 == 0o060, f"the group may not write {path}"
        assert not path.stat().st_mode & 0o002
    assert "--backend-store-uri sqlite:///mlflow.db" in project.command("see the trials")


@pytest.mark.slow
def test_commands_in_an_awkward_folder(project: Project) -> None:
    train = f"{project.command('train with it')} --steps 5 --output trained"
    done = subprocess.run(train, shell=True, cwd=project.folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (project.folder / "trained" / "metrics.jsonl").exists()
    smallest = ["--gpus", "0", "--seeds", "1", "--top", "1", "--sweep-seeds", "1"]
    for arguments in (
        ["export", "--study", "x"],
        ["report", "--study", "x", "--storage", "my studies"],
        ["confirm", "--study", "x", "--storage", "my studies", *smallest],
    ):
        done = project.run(*arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        assert "warning: the report has no links" not in done.stderr, done.stderr
    assert shlex.quote("my studies") in (project.folder / "my studies" / "x" / "report.html").read_text().replace(
        "&#39;", "'"
    )


@pytest.mark.slow
def test_a_project_that_is_copied_then_moved(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.folder, copy := tmp_path / "copy")
    before = {path: path.lstat().st_mtime_ns for path in project.folder.rglob("*")}
    resume = ["--name", "x", "--resume", "--trials", "3", "--gpus", "0", "--storage", "my studies"]
    done = project.run("search", *resume, folder=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.lstat().st_mtime_ns for path in project.folder.rglob("*")} == before
    moved = copy.rename(tmp_path / "moved")
    runs = replace(project, folder=moved).trials()
    assert len(runs) == 3
    for trial in runs:
        assert (moved / "mlruns" / "x" / trial.info.run_id / "artifacts" / "checkpoint" / "config.yaml").exists()
    for arguments in (["export", "--study", "x"], ["report", "--study", "x", "--storage", "my studies"]):
        done = project.run(*arguments, folder=moved)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.faults
def test_a_report_in_a_folder_that_may_only_be_read(project: Project, tmp_path: Path) -> None:
    (disk := tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine lets no one mount a disk")
    try:
        shutil.copytree(project.folder, folder := disk / "project")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        report = ["report", "--study", "x", "--storage", "my studies"]
        done = project.run(*report, folder=folder)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "give --output" in done.stderr
        done = project.run(*report, "--output", str(tmp_path / "report.html"), folder=folder)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "report.html").exists()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_our_packages_win_over_the_working_folders(tmp_path: Path) -> None:
    for name in ("model", "search_spaces"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('this is the user's own')\n")
    done = run(["-m", "study.search", "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(["-c", "import study, model, search_spaces; print(model.__file__)"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == ROOT / "model" / "__init__.py"


@pytest.mark.slow
def test_two_studies_that_are_begun_at_once_in_a_fresh_folder(tmp_path: Path) -> None:
    smoke = ["-m", "study.search", "--preset", "smoke", "--gpus", "0", "--trials", "1", "--steps", "10"]
    both = [start([*smoke, "--name", name], tmp_path) for name in ("a", "b")]
    for process in both:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        assert "warning" not in out, out
    for name in ("a", "b"):
        assert len(Study(tmp_path, name, "").trials()) == 1
