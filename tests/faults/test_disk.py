"""A disk that is full in the middle of a study: a small one, of memory, mounted for the test."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Study, run, start
from tests.dying_task import write_dying_task
from tests.faults.checks import check_as_never_stopped, check_whole
from tests.faults.test_outages import NEW, STUDY, TRIALS, wait_for_a_trial

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine lets no one mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """Takes all the space that is left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


@pytest.mark.parametrize("trained", ["GPT", "task"])
def test_full_disk_stops_the_study_and_damages_nothing(disk: Path, tmp_path: Path, trained: str) -> None:
    new = NEW
    if trained == "task":
        task = ["--task", str(tmp_path / write_dying_task(tmp_path)), "--steps", "4000", "--eval-interval", "40"]
        new = [*task, "--gpus", "0", "--trials", str(TRIALS), "--scheduler", "none"]
    process = start(["-u", *STUDY, *new], disk)
    try:
        output = wait_for_a_trial(process)
        fill(disk / "filler")
        out, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1, output + out + err
    assert len(err.splitlines()) == 1, err
    line = err
    assert line.startswith("error: ")
    assert "cannot be written: No space left on device" in line
    assert "--name study --resume" in line
    assert "failed" not in output + out

    again = run([*STUDY, "--resume"], disk)  # without making space
    assert again.returncode in (1, 2), again.stdout
    assert len(again.stderr.splitlines()) == 1, again.stderr
    assert "No space left on device" in again.stderr

    (disk / "filler").unlink()
    folder = disk / "studies" / "study"
    assert all(json.loads(line) for line in (folder / "optuna.journal").read_bytes().splitlines()[:-1])
    done = run([*STUDY, "--resume"], disk)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = check_whole(folder, Study(disk, "study", "").client, TRIALS)
    assert set(outcomes.values()) == {"completed"}
    for number in range(4):
        check_as_never_stopped(folder, number)
