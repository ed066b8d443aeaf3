"""A study that is stopped before its end: by Ctrl-C, by its time budget; and that goes on."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import Study, run, search, start, wait_for_a_trial

pytestmark = pytest.mark.slow

STEPS = 1500
TRIALS = 2 * (os.cpu_count() or 1) + 1
"""So many that some have not begun when the first ends."""
SLOW = [
    "--gpus", "0", "--steps", str(STEPS), "--trials", str(TRIALS), "--scheduler", "none", "--sampler", "random",
]  # fmt: skip


def interrupt(arguments: list[str], folder: Path) -> tuple[int, str, float]:
    """Starts a study, presses Ctrl-C once its first trial has ended; returns its status, output and seconds to end."""
    process = start(["-u", "-m", "study.search", *arguments], folder)
    try:
        output = wait_for_a_trial(process)
        os.kill(process.pid, signal.SIGINT)
        pressed = time.monotonic()
        out, err = process.communicate(timeout=60)
        return process.returncode, output + out + err, time.monotonic() - pressed
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def check_whole(study: Study) -> None:
    assert sorted(study.trials()) == list(range(TRIALS))
    assert len(study.runs("trial")) == TRIALS
    for trial in study.trials().values():
        assert trial.data.tags["outcome"] == "completed"
        assert trial.info.status == "FINISHED"
        assert [step for step, _ in study.history(trial, "val_loss")] == list(range(0, STEPS + 1, 10))


def test_interrupted_and_resumed_is_as_never_stopped(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = search(tmp_path / "whole", "study", *SLOW)
    check_whole(whole)

    (tmp_path / "stopped").mkdir()
    arguments = ["--preset", "smoke", "--name", "study", *SLOW]
    status, output, seconds = interrupt(arguments, tmp_path / "stopped")
    stopped = Study(tmp_path / "stopped", "study", output)
    assert status == 130, output
    assert seconds < 10
    assert "To go on:" in output
    assert "Traceback" not in output
    assert 1 < len(stopped.runs("trial")) < TRIALS
    assert {trial.info.status for trial in stopped.runs("trial")} <= {"FINISHED", "KILLED"}
    assert "stopped_early" in {trial.data.tags["outcome"] for trial in stopped.runs("trial")}

    done = run(["-m", "study.search", "--name", "study", "--resume"], tmp_path / "stopped")
    assert done.returncode == 0, done.stderr
    check_whole(stopped)
    for number in range(5):  # the known good ones; a sampler that is resumed draws others than it would have
        assert stopped.history(stopped.trials()[number], "val_loss") == whole.history(
            whole.trials()[number], "val_loss"
        )


def test_time_budget_ends_in_good_order(tmp_path: Path) -> None:
    # Long enough for the first of many short trials, on a busy machine too, and too short for all of them.
    arguments = ["--preset", "smoke", "--gpus", "0", "--trials", "500", "--name", "study", "--time-budget", "60"]
    done = run(["-m", "study.search", *arguments], tmp_path)
    study = Study(tmp_path, "study", done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 500 trials have ended. To go on:" in done.stdout
    assert (tmp_path / "studies" / "study" / "best_schedule.yaml").exists()
    (parent,) = study.runs("study")
    assert parent.info.status == "FINISHED"
    outcomes = {trial.data.tags["outcome"]: trial.info.status for trial in study.runs("trial")}
    assert outcomes == {"completed": "FINISHED", "stopped_early": "KILLED"}


def test_a_study_gets_more_trials(tmp_path: Path) -> None:
    study = search(tmp_path, "study", "--gpus", "0", "--trials", "2")
    run_ids = {number: trial.info.run_id for number, trial in study.trials().items()}
    done = run(["-m", "study.search", "--name", "study", "--resume", "--trials", "6"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(study.trials()) == list(range(6))
    assert run_ids.items() <= {number: trial.info.run_id for number, trial in study.trials().items()}.items()
    assert "warning" not in done.stdout
    assert "error" not in done.stdout
