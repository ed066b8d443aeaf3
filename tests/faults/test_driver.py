"""The driver killed at one moment after the other, each time resumed; the machine restarted; time that jumps."""

import shutil
import signal
from pathlib import Path

import pytest

from tests.conftest import Study, run
from tests.dying_task import write_dying_task
from tests.faults.checks import check_as_never_stopped, check_whole, optuna_study
from tests.faults.search import MOMENTS

pytestmark = [pytest.mark.slow, pytest.mark.faults]

TRIALS = 7
NEW = ["--preset", "smoke", "--gpus", "0", "--scheduler", "none", "--trials", str(TRIALS)]


def test_killed_at_every_moment_and_resumed_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "study"
    for moment in MOMENTS:
        more = ["--resume"] if (folder / "study.yaml").exists() else NEW
        done = run(["-m", "tests.faults.search", "--name", "study", *more], tmp_path, DIES=moment)
        assert done.returncode == -signal.SIGKILL, f"{moment}: {done.stdout}{done.stderr}"
    content = bytearray((folder / "study.yaml").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "study.yaml").write_bytes(content)
    done = run(["-m", "study.search", "--name", "study", "--resume"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "study.yaml is damaged" in done.stdout
    study = Study(tmp_path, "study", done.stdout)
    outcomes = check_whole(folder, study.client, TRIALS)
    assert set(outcomes.values()) == {"completed"}
    for number in range(TRIALS):
        check_as_never_stopped(folder, number)
    names = [trial.user_attrs.get("known_good") for trial in optuna_study(folder).trials]
    assert None not in names[:5]
    assert len(set(names[:5])) == 5


def test_a_task_whose_workers_and_driver_are_killed_goes_on_bit_for_bit(tmp_path: Path) -> None:
    new = ["--task", write_dying_task(tmp_path), "--steps", "60", "--eval-interval", "10", "--set", "dies_at=33"]
    new += ["--gpus", "0", "--trials", "3", "--scheduler", "none"]
    for moment in ("while MLflow is told of an evaluation", "before Optuna hears of an evaluation"):
        more = ["--resume"] if (tmp_path / "studies").exists() else new
        done = run(["-m", "tests.faults.search", "--name", "study", *more], tmp_path, DIES=moment)
        assert done.returncode == -signal.SIGKILL, f"{moment}: {done.stdout}{done.stderr}"
        shutil.rmtree(tmp_path / "mine", ignore_errors=True)  # the study has its own copy
    done = run(["-m", "study.search", "--name", "study", "--resume"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "studies" / "study"
    outcomes = check_whole(folder, Study(tmp_path, "study", done.stdout).client, 3)
    assert set(outcomes.values()) == {"completed"}
    for number in range(3):
        assert (folder / "trials" / f"{number:05d}" / f"{number:05d}-died").exists()
        check_as_never_stopped(folder, number)


def test_a_finished_study_goes_on_from_what_it_knows(finished_study: Study, tmp_path: Path) -> None:
    """In a copy of it, since others look at it too, and in another store, which is sent all that was before."""
    name = finished_study.name
    shutil.copytree(finished_study.folder / "studies", tmp_path / "studies")
    store = ["--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    done = run(["-m", "study.search", "--name", name, "--resume", "--trials", "13", *store], tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "studies" / name
    check_whole(folder, Study(tmp_path, name, done.stdout).client, 13)
    for trial in optuna_study(folder).trials[10:]:  # drawn from a model of the first ten, not at random
        assert "tpe:relative_params:0" in trial.system_attrs


def test_a_clock_that_jumps_changes_no_result_and_no_order(tmp_path: Path) -> None:
    done = run(["-m", "tests.faults.search", "--name", "study", *NEW, "--trials", "3"], tmp_path, FAULTS="clock")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "studies" / "study"
    study = Study(tmp_path, "study", done.stdout)
    check_whole(folder, study.client, 3)
    check_as_never_stopped(folder, 0)
    for trial in study.trials().values():
        assert all(0 <= seconds < 600 for _, seconds in study.history(trial, "train_seconds"))
