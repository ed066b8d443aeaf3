"""Workers that die, are paused, run out of memory, diverge or find damaged files: one real study with all of it."""

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import Study, run
from tests.faults.checks import check_as_never_stopped, check_whole, optuna_study

pytestmark = [pytest.mark.slow, pytest.mark.faults]

STUDY = ["-m", "tests.faults.search", "--preset", "smoke", "--gpus", "0", "--name", "study", "--scheduler", "none"]


def let_go_on(pid_file: Path, stop: threading.Event) -> None:
    """Waits for a worker that is stopped by a signal, lets it be for a while, and lets it go on."""
    while not stop.wait(0.2):
        if pid_file.exists() and (pid := pid_file.read_text()):
            worker = psutil.Process(int(pid))
            if worker.status() == psutil.STATUS_STOPPED:
                time.sleep(3)  # the fault itself: so long it is paused
                os.kill(worker.pid, signal.SIGCONT)
                return


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("workers")
    stop = threading.Event()
    pid_file = folder / "studies" / "study" / "trials" / "00006" / "pid"
    watch = threading.Thread(target=let_go_on, args=(pid_file, stop))
    watch.start()
    try:
        done = run([*STUDY, "--trials", "9"], folder, FAULTS="all sorts")
    finally:
        stop.set()
        watch.join()
    assert done.returncode == 0, done.stdout + done.stderr
    return Study(folder, "study", done.stdout)


def test_all_is_told_once_and_alike(study: Study) -> None:
    outcomes = check_whole(study.folder / "studies" / "study", study.client, 9)
    failed = {number for number, outcome in outcomes.items() if outcome == "failed"}
    assert failed == {0, 2, 3, 5, 7}
    assert {outcomes[number] for number in (1, 4, 6, 8)} == {"completed"}
    assert "Traceback" not in study.output


def test_killed_four_times_with_progress_goes_on_as_if_never_stopped(study: Study) -> None:
    trial = study.folder / "studies" / "study" / "trials" / "00004"
    assert study.trials()[4].data.params["schedule.kind"] == "val_loss"
    assert {"at 15", "writing", "renaming", "at 55"} <= {path.name for path in trial.iterdir()}
    assert study.output.count("trial 4: its worker died") == 4
    # At 15 with the checkpoint of 10, writing that of 20, renaming that of 40, at 55 with that of 50.
    assert (trial / "begun").read_text().split() == ["0", "10", "10", "30", "50"]
    check_as_never_stopped(study.folder / "studies" / "study", 4)
    assert not list(trial.rglob(".part-*"))


def test_damaged_checkpoint_is_passed_over_and_this_is_said(study: Study) -> None:
    assert "trial 1: checkpoint" in study.output
    assert "step-00000040 is damaged (its checksum differs): the one before it is used" in study.output
    assert (study.folder / "studies" / "study" / "trials" / "00001" / "begun").read_text().split() == ["0", "30"]
    check_as_never_stopped(study.folder / "studies" / "study", 1)


def test_paused_worker_makes_no_difference(study: Study) -> None:
    assert (study.folder / "studies" / "study" / "trials" / "00006" / "paused").exists()
    check_as_never_stopped(study.folder / "studies" / "study", 6)


@pytest.mark.parametrize(
    ("number", "reason", "known"),
    [
        (2, "out of memory", "MemoryError"),
        (3, "KeyError: 'no such key'", "tests/faults/workers.py"),
        (7, "out of memory: CUDA out of memory", "OutOfMemoryError"),
        (5, "its worker died, again and again, without a new checkpoint", "Failure # 3"),
    ],
)
def test_failed_trial_has_its_reason_and_traceback(study: Study, number: int, reason: str, known: str) -> None:
    trial = study.trials()[number]
    assert trial.data.tags["reason"].startswith(reason)
    assert reason in study.output
    (traceback,) = [f.path for f in study.client.list_artifacts(trial.info.run_id) if f.path.endswith(".txt")]
    assert known in Path(study.client.download_artifacts(trial.info.run_id, traceback)).read_text()


def test_diverged_trial_names_the_step_and_the_loss(study: Study) -> None:
    assert study.trials()[0].data.tags["reason"] == "diverged: train_loss is nan at step 30"
    trial = optuna_study(study.folder / "studies" / "study").trials[0]
    assert trial.user_attrs["diverged"] is True


def test_if_every_trial_fails_one_line_says_why(tmp_path: Path) -> None:
    done = run([*STUDY, "--trials", "2"], tmp_path, FAULTS="fails")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no trial of study study was completed: KeyError: 'no such key'" in done.stderr
    study = Study(tmp_path, "study", done.stdout)
    assert [trial.info.status for trial in study.runs("trial")] == ["FAILED"] * 2
    (parent,) = study.runs("study")
    assert parent.info.status == "FAILED"
