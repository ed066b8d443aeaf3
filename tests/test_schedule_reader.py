"""Schedules for other people's models, read from files and dicts on a bare checkout."""

import subprocess
import sys
from pathlib import Path

import pytest

from model.drive import read_schedule
from model.regularizer import Regularizer
from model.schedules import from_dict

ROOT = Path(__file__).resolve().parent.parent
FALLING = {"kind": "linear", "initial_rate": 0.4, "final_rate": 0.0}


@pytest.mark.parametrize("version", [1, 2])
def test_a_schedule_file_is_read_without_its_training(version: int, tmp_path: Path) -> None:
    path = tmp_path / "best_schedule.yaml"
    depth = "depth: {kind: rising}\n" if version == 2 else ""
    path.write_text(
        f"format: dynamic-dropout-schedule/{version}\nschedule: {{kind: linear, initial_rate: 0.4, final_rate: 0.0}}\n"
        f"{depth}training: {{n_layer: 2, a: later}}\nprovenance: {{study: a}}\n"
    )
    expected = Regularizer.from_dict({"schedule": FALLING} | ({"depth": {"kind": "rising"}} if version == 2 else {}))
    assert read_schedule(path) == read_schedule(str(path)) == expected


def test_dicts_and_schedules_are_read_too() -> None:
    expected = Regularizer(from_dict(FALLING))
    assert read_schedule(FALLING) == read_schedule({"schedule": FALLING}) == expected
    assert read_schedule({"format": "dynamic-dropout-schedule/1", "schedule": FALLING}) == expected
    assert read_schedule(from_dict(FALLING)) == expected
    assert read_schedule(expected) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format: [", "YAML|expected"),
        ("- 1", "must be a mapping with the keys format, schedule"),
        ("schedule: {kind: constant, rate: 0.1}", "format must be dynamic-dropout-schedule/1 or .*, got None"),
        ("format: dynamic-dropout-schedule/3", "format is 'dynamic-dropout-schedule/3', newer than"),
        ("format: dynamic-dropout-schedule/1", "it has no schedule"),
        ("format: dynamic-dropout-schedule/1\ndepth: {kind: rising}", "it has no schedule"),
        ("format: dynamic-dropout-schedule/1\nschedule: {kind: constant, rate: 1}", "rate of a constant schedule"),
    ],
)
def test_a_bad_schedule_file_is_refused_in_one_line_with_its_name(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_schedule(path)
    assert str(caught.value).startswith(f"schedule file {path}: ")
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        read_schedule(tmp_path / "absent.yaml")


BARE = """
import sys
BLOCKED = {"ray", "optuna", "mlflow", "transformers", "lightning", "pytorch_lightning", "pyarrow", "safetensors",
           "rich", "scipy", "pandas", "tqdm"}
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
from torch import nn
import model.adapters
from model.adapters import HuggingFaceDropout, LightningDropout
from model.drive import Driver, read_schedule
for compiled in (False, True):
    layers = nn.Sequential(nn.Dropout(0.1))
    driver = Driver(layers, read_schedule({"kind": "constant", "rate": 0.3}), steps=2, compiled=compiled)
    driver.before_step(0)
    assert abs(driver.sites["0.p"] - 0.3) < 1e-5
for adapter in (HuggingFaceDropout, LightningDropout):
    try:
        adapter({"kind": "constant", "rate": 0.3})
    except ImportError as error:
        print(error)
"""


def test_a_bare_checkout_is_enough(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["transformers", "pytorch_lightning"]
