"""GPUs that Ray only pretends to have: how many trials run at once, and which GPU each is lent."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import Study, run, start
from tests.services import wait_until

pytestmark = pytest.mark.slow

WITH_8_GPUS = """
import sys
import study.engine  # sets what Ray reads
import ray
from study.base.errors import exit_status
from study.search.__main__ import main
ray.init(address="local", num_gpus=8, include_dashboard=False, log_to_driver=False)
sys.exit(exit_status(lambda: main(sys.argv[1:])))
"""


def times(folder: Path) -> dict[int, list[int]]:
    """Returns when each trial of a study was evaluated."""
    files = {int(file.parent.name): file for file in folder.glob("studies/study/trials/*/times.txt")}
    return {n: [int(line.split()[1]) for line in file.read_text().splitlines()] for n, file in files.items()}


def at_once(study: Study) -> tuple[int, int]:
    """Returns the most trials that ran at once, and the most of them on one GPU, by their first and last evaluation."""
    gpus = {number: trial.data.tags["gpu_ids"] for number, trial in study.trials().items()}
    events = []
    for number, evaluated in times(study.folder).items():
        events += [(max(evaluated), 0, gpus[number]), (min(evaluated), 1, gpus[number])]
    running: Counter[str] = Counter()
    most, most_on_one = 0, 0
    for _, begins, gpu in sorted(events):
        running[gpu] += 1 if begins else -1
        most, most_on_one = max(most, running.total()), max(most_on_one, *running.values())
    return most, most_on_one


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("program") / "with_8_gpus.py"
    path.write_text(WITH_8_GPUS)
    return str(path)


def run_until(trials: int, program: str, folder: Path, *more: str) -> Study:
    """Runs a study of trials that do not end by themselves, and interrupts it when so many go on side by side."""
    endless = ["--preset", "smoke", "--steps", "1000000", "--name", "study"]
    process = start([program, *endless, *more], folder)

    def counts() -> dict[int, int]:
        assert process.poll() is None, process.communicate()
        return {number: len(evaluated) for number, evaluated in times(folder).items()}

    try:
        wait_until(lambda: len(counts()) >= trials, f"{trials} trials that have begun")
        begun = counts()
        wait_until(lambda: all(counts()[n] > count for n, count in begun.items()), "another evaluation of each")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, out + err
    study = Study(folder, "study", out)
    assert sorted(study.trials()) == list(range(trials)), "no more have begun"
    return study


def test_eight_gpus_run_eight_trials_each_on_its_own(program: str, tmp_path: Path) -> None:
    study = run_until(8, program, tmp_path, "--gpus", "8", "--trials", "10")
    assert at_once(study) == (8, 1)
    assert {trial.data.tags["gpu_ids"] for trial in study.trials().values()} == set("01234567")
    assert study.output.count("torch cannot use the GPUs") == 1
    assert {trial.data.params["training.dtype"] for trial in study.trials().values()} == {"float32"}


def test_two_trials_share_a_gpu(program: str, tmp_path: Path) -> None:
    """And of eight GPUs the study uses the three that it may."""
    study = run_until(6, program, tmp_path, "--gpus", "3", "--trials-per-gpu", "2", "--trials", "10")
    assert at_once(study) == (6, 2)
    assert len({trial.data.tags["gpu_ids"] for trial in study.trials().values()}) == 3
    assert {trial.data.tags["trials_per_gpu"] for trial in study.trials().values()} == {"2"}
    resume = ["-m", "study.search", "--name", "study", "--resume", "--gpus", "0", "--time-budget", "1"]
    done = run(resume, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no trial of study study was completed: the time was over" in done.stderr


def test_more_gpus_than_the_cluster_has(program: str, tmp_path: Path) -> None:
    done = run([program, "--gpus", "9", "--preset", "smoke"], tmp_path)
    assert done.returncode == 2
    assert "error: --gpus 9: the Ray cluster has 8; give at most that many, or 0 for the CPU" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_gpus(tmp_path: Path) -> None:
    done = run(["-m", "study.search", "--gpus", "8", "--preset", "smoke"], tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: --gpus 8: the Ray cluster has 0; give at most that many, or 0 for the CPU"
    ]
    assert list(tmp_path.iterdir()) == []
