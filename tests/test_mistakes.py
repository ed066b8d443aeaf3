"""A user's mistakes: one clear line, exit status 2, and nothing left behind."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from study import export, train
from study.base.errors import exit_status
from study.confirm import __main__ as confirm
from study.report import __main__ as report
from study.search import __main__ as search
from tests.conftest import Study

SCHEDULE = "format: dynamic-dropout-schedule/1\nschedule: {kind: constant, rate: 0.1}\n"
SMOKE = ["--preset", "smoke", "--gpus", "0"]
NOWHERE = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""

SEARCHES = {
    "space": (["--space", "nope"], "nope"),
    "preset": (["--preset", "nope"], "nope"),
    "sampler": (["--sampler", "nope"], "nope"),
    "scheduler": (["--scheduler", "nope"], "nope"),
    "unknown flag": (["--nope"], "--nope"),
    "no trials": ([*SMOKE, "--trials", "0"], "--trials must be at least 1, got 0"),
    "half a trial": ([*SMOKE, "--trials", "1.5"], "1.5"),
    "no steps": ([*SMOKE, "--steps", "0"], "--steps must be at least 1, got 0"),
    "negative seed": ([*SMOKE, "--seed", "-1"], "--seed must be at least 0, got -1"),
    "negative GPUs": (["--gpus", "-1"], "--gpus must be at least 0, got -1"),
    "no trials on a GPU": (["--trials-per-gpu", "0"], "--trials-per-gpu must be at least 1, got 0"),
    "times of trials that share a GPU": (
        ["--objectives", "loss,time", "--trials-per-gpu", "2"],
        "leave --trials-per-gpu out",
    ),
    "times of trials that ASHA stops": (["--objectives", "loss,time", "--scheduler", "asha"], "--scheduler none"),
    "objective": (["--objectives", "time"], "time"),
    "fewer than no replicates": (["--replicate", "-1"], "--replicate must be at least 0, got -1"),
    "NaN budget": ([*SMOKE, "--time-budget", "nan"], "nan"),
    "name with a slash": ([*SMOKE, "--name", "a/b"], "a/b"),
    "name that climbs": ([*SMOKE, "--name", ".."], ".."),
    "resume of nothing": (["--name", "none", "--resume"], "none"),
    "resume of no name": (["--resume"], "--name"),
    "missing corpus": ([*SMOKE, "--corpus", "nope.txt"], "nope.txt"),
    "empty corpus": ([*SMOKE, "--corpus", "empty.txt"], "empty.txt is empty"),
    "corpus not UTF-8": ([*SMOKE, "--corpus", "latin.txt"], "latin.txt is not UTF-8"),
    "corpus shorter than a context": ([*SMOKE, "--corpus", "short.txt"], "short.txt is too short"),
    "corpus that is a folder": ([*SMOKE, "--corpus", "."], "cannot be read"),
    "unreachable server": ([*SMOKE, "--tracking-uri", NOWHERE], NOWHERE),
    "unknown kind of store": ([*SMOKE, "--tracking-uri", "nope://x"], "nope://x"),
    "store in no folder": ([*SMOKE, "--tracking-uri", "sqlite:///no/folder/x.db"], "no/folder"),
    "unknown database": ([*SMOKE, "--optuna-storage", "nope://x"], "nope://x"),
    "store that is a folder": ([*SMOKE, "--tracking-uri", "sqlite:///folder.db"], "folder.db is a folder"),
    "store that is a pipe": ([*SMOKE, "--tracking-uri", "sqlite:///pipe"], "pipe is no regular file"),
    "store that is a text": ([*SMOKE, "--tracking-uri", "sqlite:///long.txt"], "long.txt is no SQLite database"),
    "folder as a store": ([*SMOKE, "--tracking-uri", "./mlruns"], "give --tracking-uri sqlite:///mlflow.db"),
    "cloud without credentials": ([*SMOKE, "--tracking-uri", "databricks"], "tracking URI databricks cannot be used"),
    "page of no server": ([*SMOKE, "--tracking-uri", f"{NOWHERE}/#/experiments/0"], f"answers at {NOWHERE} "),
    "cluster that is not there": ([*SMOKE, "--address", "127.0.0.1:9"], "correct --address or RAY_ADDRESS"),
    "cluster without a port": ([*SMOKE, "--address", "host:"], "it has no port"),
    "corpus that is a pipe": ([*SMOKE, "--corpus", "pipe"], "pipe cannot be read (it is no regular file)"),
    "storage that is a pipe": ([*SMOKE, "--storage", "pipe"], "--storage pipe is"),
    "storage below a file": ([*SMOKE, "--storage", "short.txt/studies", "--name", "x"], "short.txt is a file"),
    "storage that is a file": ([*SMOKE, "--storage", "short.txt"], "short.txt"),
    "task that is not there": (["--task", "none.py:train", "--steps", "5"], "none.py cannot be read"),
    "task without steps": (["--task", "task.py:train"], "needs --steps N"),
    "task with a preset": ([*SMOKE, "--task", "task.py:train", "--steps", "5"], "--preset is for the project's tasks"),
    "task with a corpus": (
        ["--task", "task.py:train", "--steps", "5", "--corpus", "a.txt"],
        "--corpus is for the project",
    ),
    "setting of no task": (["--set", "width=3"], "--set needs --task"),
    "setting without a value": (["--task", "task.py:train", "--steps", "5", "--set", "width"], "give KEY=VALUE"),
    "evaluations of no task": (["--eval-interval", "3"], "--eval-interval needs --task"),
}
SCHEDULES = {
    "unknown kind": ("format: dynamic-dropout-schedule/1\nschedule: {kind: nope}\n", "nope"),
    "rate of 1": ("format: dynamic-dropout-schedule/1\nschedule: {kind: constant, rate: 1}\n", "got 1"),
    "rate below 0": ("format: dynamic-dropout-schedule/1\nschedule: {kind: constant, rate: -0.1}\n", "got -0.1"),
    "rate NaN": ("format: dynamic-dropout-schedule/1\nschedule: {kind: constant, rate: .nan}\n", "got nan"),
    "patience 0": (
        "format: dynamic-dropout-schedule/1\nschedule: {kind: val_loss, initial_rate: 0.2, final_rate: 0, factor: 0.5,"
        " patience: 0, min_delta: 0}\n",
        "got 0",
    ),
    "malformed": ("{{{", "not YAML"),
    "a key twice": (
        SCHEDULE.replace("rate: 0.1", "rate: 0.1, rate: 0.5"),
        "line 2 is not YAML: the key 'rate' stands",
    ),
    "newer format": (SCHEDULE.replace("/1", "/3"), "newer"),
    "other format": (SCHEDULE.replace("dynamic", "static"), "static"),
    "unknown key": (SCHEDULE + "more: 1\n", "more"),
    "no training config": (SCHEDULE, "--preset"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "short.txt").write_text("To be, or not to be")
    (tmp_path / "long.txt").write_text("To be, or not to be" * 100)
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "task.py").write_text("def train(run):\n    pass\n")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("DATABRICKS_HOST", raising=False)
    return tmp_path


def check(command: Callable[[], int], named: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    assert exit_status(command) == 2
    out, err = capsys.readouterr()
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("error: ")
    assert named in err
    assert out == ""
    assert sorted(folder.rglob("*")) == before, "something was left behind"


@pytest.mark.parametrize("case", SEARCHES)
def test_search(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, named = SEARCHES[case]
    check(lambda: search.main(arguments), named, folder, capsys)


@pytest.mark.parametrize("case", SCHEDULES)
def test_train(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, named = SCHEDULES[case]
    (folder / "schedule.yaml").write_text(text)
    check(lambda: train.main(["--schedule", "schedule.yaml", "--output", "out"]), named, folder, capsys)


@pytest.mark.parametrize("output", ["short.txt", "pipe", "short.txt/out", "/dev/null"])
def test_train_output(output: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "schedule.yaml").write_text(SCHEDULE)
    arguments = ["--schedule", "schedule.yaml", "--preset", "smoke", "--output", output]
    check(lambda: train.main(arguments), f"--output {output}", folder, capsys)


@pytest.mark.parametrize("output", [".", "pipe", "no/folder/x", "short.txt/x", "/dev/null"])
@pytest.mark.parametrize("command", [export.main, report.main])
def test_output_files(
    command: Callable[[list[str]], int], output: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(lambda: command(["--study", "none", "--output", output]), f"--output {output}", folder, capsys)


@pytest.mark.parametrize("more", [["--rate", "1"], ["--preset", "smoke", "--steps", "-5"], ["--preset", "nope"]])
def test_train_flags(more: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "schedule.yaml").write_text(SCHEDULE)
    check(lambda: train.main(["--schedule", "schedule.yaml", "--output", "out", *more]), more[-1], folder, capsys)


@pytest.mark.parametrize("more", [[], ["--tracking-uri", NOWHERE], ["--output", "no/folder/x.yaml"]])
def test_export(more: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = more[-1] if more else "mlflow.db"
    check(lambda: export.main(["--study", "none", *more]), named, folder, capsys)


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--tracking-uri", NOWHERE],
        ["--output", "no/folder/x.html"],
        ["--output", "."],
        ["--study", "../x"],
        ["--nope"],
    ],
)
def test_report(more: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = more[-1] if more else "mlflow.db"
    check(lambda: report.main(["--study", "none", *more]), named, folder, capsys)


CONFIRMATIONS = {
    "neither": ([], "give --study NAME, or --runs DIR"),
    "both": (["--study", "none", "--runs", "short.txt"], "give --study NAME, or --runs DIR"),
    "no such study": (["--study", "none"], "there is no study"),
    "study that climbs": (["--study", ".."], ".."),
    "no seeds": (["--study", "none", "--seeds", "0"], "--seeds must be from 1 to 1000, got 0"),
    "no schedules": (["--study", "none", "--top", "0"], "--top must be at least 1, got 0"),
    "half a seed": (["--study", "none", "--seeds", "2.5"], "2.5"),
    "a flag of the other kind": (
        ["--study", "none", "--corpus", "short.txt"],
        "--corpus cannot be combined with --study",
    ),
    "seeds and looks": (["--study", "none", "--seeds", "5", "--until-decided"], "--seeds and --until-decided exclude"),
    "too few looks": (["--study", "none", "--until-decided", "--max-seeds", "2"], "--max-seeds must be from 3 to 1000"),
    "most seeds without looks": (["--study", "none", "--max-seeds", "9"], "--max-seeds 9 needs --until-decided"),
    "no smallest gain": (["--study", "none", "--until-decided", "--smallest", "0"], "--smallest must be a number"),
    "NaN gain": (["--study", "none", "--until-decided", "--smallest", "nan"], "--smallest must be a number"),
    "an SD without power": (["--study", "none", "--seed-sd", "0.01"], "--seed-sd 0.01 needs --power"),
    "no runs": (["--runs", "none"], "there is no run of study.train --output in it"),
    "seeds with runs": (["--runs", "none", "--seeds", "3"], "--seeds cannot be combined with --runs"),
}


@pytest.mark.parametrize("case", CONFIRMATIONS)
def test_confirm(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, named = CONFIRMATIONS[case]
    check(lambda: confirm.main(arguments), named, folder, capsys)


def test_full_evaluation_needs_an_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "schedule.yaml").write_text(SCHEDULE)
    arguments = ["--schedule", "schedule.yaml", "--preset", "smoke", "--full-evaluation"]
    check(lambda: train.main(arguments), "--full-evaluation needs the --output", folder, capsys)


@pytest.fixture
def finished(finished_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the real study, in which the commands run."""
    shutil.copytree(finished_study.folder, folder := tmp_path / "finished")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return folder


@pytest.mark.slow
def test_a_name_in_use_says_both_ways_out(
    finished_study: Study, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = finished_study.name
    check(
        lambda: search.main(["--name", name]), "add --resume to go on with it, or give another name", finished, capsys
    )
    other = [*SMOKE, "--name", name, "--storage", "elsewhere"]  # another folder, but the same experiment
    check(lambda: search.main(other), "MLflow experiment", finished, capsys)


@pytest.mark.slow
def test_a_flag_that_contradicts_the_study(
    finished_study: Study, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in (["--steps", "61"], ["--space", "constant"], ["--seed", "1"], ["--corpus", "shakespeare_char"]):
        resume = ["--name", finished_study.name, "--resume", *more]
        check(partial(search.main, resume), f"{more[0]} {more[1]} contradicts the study", finished, capsys)
