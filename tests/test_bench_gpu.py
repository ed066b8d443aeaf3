"""The GPU's measurements, as a dry run on a CPU."""

import json
import tarfile
from pathlib import Path

import pytest

from tests.conftest import run


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be, that is the question. " * 500)
    return path


@pytest.mark.slow
def test_measures_and_whole_runs_on_a_cpu(text: Path, tmp_path: Path) -> None:
    command = ["-m", "study.bench.gpu"]
    dry = ["--corpus", str(text), "--device", "cpu", "--preset", "smoke", "--output", "gpu"]
    done = run([*command, "measure", *dry, "--steps", "5"], tmp_path)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "gpu" / "measure.json").read_text())
    assert not [name for name in numbers if name.endswith("failed")], numbers
    assert numbers["repeats_graphed_deterministic"] is True
    assert numbers["resume_repeats"] is True
    assert numbers["step_ms_0.2"] > 0
    assert "steps_per_second_1_at_once" in numbers
    done = run([*command, "runs", *dry, "--seconds", "800", "--seeds", "1"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "gpu" / "runs.json").read_text())["runs_complete"] == 3
    with tarfile.open(tmp_path / "gpu" / "runs.tar.gz") as archive:
        names = archive.getnames()
    assert sum(name.endswith("metrics.jsonl") for name in names) == 3
    assert not [name for name in names if "safetensors" in name]
    done = run([*command, "searches", *dry, "--steps", "20", "--trials", "2"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "gpu" / "searches.json").read_text())["trials_per_hour_1_at_once"] > 0


def test_without_a_gpu_it_says_how_to_try_it(text: Path, tmp_path: Path) -> None:
    done = run(["-m", "study.bench.gpu", "measure", "--corpus", str(text)], tmp_path)
    assert done.returncode == 2
    assert "--device cpu" in done.stderr
