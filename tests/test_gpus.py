"""GPUs that Ray only pretends to have: how many trials run at once, and which GPU each is lent."""

from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import Study, run

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


def at_once(study: Study) -> tuple[int, int]:
    """Returns the most trials that ran at once, and the most of them on one GPU, by their first and last evaluation."""
    events = []
    for trial in study.trials().values():
        gpu = trial.data.tags["gpu_ids"]
        times = [metric.timestamp for metric in study.client.get_metric_history(trial.info.run_id, "val_loss")]
        events += [(max(times), 0, gpu), (min(times), 1, gpu)]
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


def run_for(seconds: int, program: str, folder: Path, *more: str) -> Study:
    """Runs a study of trials that do not end by themselves for some time: long enough for all workers to start."""
    endless = ["--preset", "smoke", "--steps", "1000000", "--time-budget", str(seconds), "--name", "study"]
    done = run([program, *endless, *more], folder)
    assert done.returncode == 1, done.stderr
    assert "the time was over" in done.stderr
    return Study(folder, "study", done.stdout)


def test_eight_gpus_run_eight_trials_each_on_its_own(program: str, tmp_path: Path) -> None:
    study = run_for(90, program, tmp_path, "--gpus", "8", "--trials", "10")
    assert at_once(study) == (8, 1)
    assert {trial.data.tags["gpu_ids"] for trial in study.trials().values()} == set("01234567")
    assert study.output.count("torch cannot use the GPUs") == 1
    assert {trial.data.params["training.dtype"] for trial in study.trials().values()} == {"float32"}


def test_two_trials_share_a_gpu(program: str, tmp_path: Path) -> None:
    study = run_for(160, program, tmp_path, "--gpus", "8", "--trials-per-gpu", "2", "--trials", "20")
    assert at_once(study) == (16, 2)
    assert {trial.data.tags["trials_per_gpu"] for trial in study.trials().values()} == {"2"}


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
