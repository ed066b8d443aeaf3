"""The examples of model/README.md run as they stand there."""

import runpy
from pathlib import Path

import pytest

from model.schedules import from_dict
from study.training.schedule_file import ScheduleFile

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = [part.partition("\n```")[0] for part in (ROOT / "model" / "README.md").read_text().split("```python\n")[1:]]
SCHEDULE = {"kind": "val_loss", "initial_rate": 0.3, "final_rate": 0.1, "factor": 0.5, "patience": 1, "min_delta": 0.0}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("example", EXAMPLES, ids=["schedule", "torch", "hugging face", "lightning"])
def test_an_example_runs_with_an_exported_schedule(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ScheduleFile(schedule=from_dict(SCHEDULE)).write(tmp_path / "best_schedule.yaml")
    (tmp_path / "example.py").write_text(example)
    runpy.run_path("example.py", run_name="__main__")
    if "HuggingFace" in example:
        assert "'dropout_rate': '0.3'" in capsys.readouterr().out
