"""A study that is stopped before its end: by Ctrl-C, by its time budget; and that goes on."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import Study, run, start, wait_for_a_trial
from tests.faults.checks import check_as_never_stopped

pytestmark = pytest.mark.slow

STEPS = 600
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
    status, output, seconds = interrupt(["--preset", "smoke", "--name", "study", *SLOW], tmp_path)
    stopped = Study(tmp_path, "study", output)
    assert status == 130, output
    assert seconds < 10
    assert "To go on:" in output
    assert "Traceback" not in output
    assert 1 < len(stopped.runs("trial")) < TRIALS
    assert {trial.info.status for trial in stopped.runs("trial")} <= {"FINISHED", "KILLED"}
    broken_off = [n for n, trial in stopped.trials().items() if trial.data.tags["outcome"] == "stopped_early"]
    assert broken_off

    done = run(["-m", "study.search", "--name", "study", "--resume"], tmp_path)
    assert done.returncode == 0, done.stderr
    check_whole(stopped)
    for number in broken_off:
        check_as_never_stopped(tmp_path / "studies" / "study", number)


def test_time_budget_ends_in_good_order(tmp_path: Path) -> None:
    # Long enough for the first of many short trials, on a busy machine too, and too short for all of them.
    arguments = ["--preset", "smoke", "--gpus", "0", "--trials", "500", "--name", "study", "--time-budget", "30"]
    done = run(["-m", "study.search", *arguments], tmp_path)
    study = Study(tmp_path, "study", done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 500 trials have ended. To go on:" in done.stdout
    assert (tmp_path / "studies" / "study" / "best_schedule.yaml").exists()
    (parent,) = study.runs("study")
    assert parent.info.status == "FINISHED"
    outcomes = {trial.data.tags["outcome"]: trial.info.status for trial in study.runs("trial")}
    assert outcomes == {"completed": "FINISHED", "stopped_early": "KILLED"}
