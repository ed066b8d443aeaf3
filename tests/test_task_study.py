"""Studies of the user's own task: the examples, from the search to a driven model, and what goes wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import study.tasks.examples
from model.drive import read_schedule
from study.training.evaluation_rows import read_parquet
from study.training.schedule_file import read_schedule_file
from study.training.task_config import TaskConfig
from tests.conftest import Study, run

pytestmark = pytest.mark.slow

EXAMPLES = Path(study.tasks.examples.__file__).parent
STEPS, INTERVAL, TRIALS = 20, 5, 6
RESUME = ["-m", "study.search", "--name", "s", "--resume", "--trials", "4"]


def losses(folder: Path) -> list[tuple[int, float, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["val_loss"], row.get("metrics")) for row in rows]


@pytest.fixture(scope="module", params=["gpt2_plays", "digits", "mlp"])
def searched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """An example, searched as its user would."""
    name = str(request.param)
    folder = tmp_path_factory.mktemp(name)
    shutil.copy(EXAMPLES / f"{name}.py", folder)
    new = ["--task", f"{name}.py:train", "--steps", str(STEPS), "--eval-interval", str(INTERVAL), "--gpus", "0"]
    done = run(["-m", "study.search", *new, "--trials", str(TRIALS), "--name", name, "--scheduler", "none"], folder)
    assert done.returncode == 0, done.stderr + done.stdout
    return Study(folder, name, done.stdout)


def test_an_example_is_searched_confirmed_exported_and_driven_again(searched: Study) -> None:
    name, here = searched.name, searched.folder
    rows = read_parquet(here / "studies" / name / "trials.parquet")
    assert {row["trial"] for row in rows} == set(range(TRIALS))
    assert {row["outcome"] for row in rows} == {"completed"}
    trials = searched.trials()
    assert all(trials[i].data.metrics["best_val_loss"] > 0 for i in range(TRIALS))
    assert trials[0].data.params["training.task"] == f"{name}.py:train"

    (here / f"{name}.py").rename(here / "moved.py")  # the study has its own copy
    confirmed = run(["-m", "study.confirm", "--study", name, "--seeds", "2", "--sweep-seeds", "1", "--top", "1"], here)
    assert confirmed.returncode == 0, confirmed.stderr + confirmed.stdout
    verdict = json.loads((here / "studies" / name / "confirmation" / "verdict.json").read_text())
    assert all(arm["n"] == 2 for arm in verdict["arms"])
    assert "nats" not in verdict["verdict"]
    again = run(["-m", "study.confirm", "--study", name, "--seeds", "2", "--sweep-seeds", "1", "--top", "1"], here)
    assert again.returncode == 0, again.stderr
    assert "runs of" not in again.stdout  # nothing was left to do
    (here / "moved.py").rename(here / f"{name}.py")

    exported = run(["-m", "study.export", "--study", name], here)
    assert exported.returncode == 0, exported.stderr
    file = read_schedule_file(here / "best_schedule.yaml")
    assert isinstance(file.training, TaskConfig)
    assert file.provenance is not None
    trained = run(["-m", "study.train", "--schedule", "best_schedule.yaml", "--output", "again"], here)
    assert trained.returncode == 0, trained.stderr
    winner = here / "studies" / name / "trials" / f"{file.provenance['trial']:05d}"
    assert losses(here / "again") == losses(winner)
    assert read_schedule(here / "best_schedule.yaml").to_dict() == file.regularizer.to_dict()
    reported = run(["-m", "study.report", "--study", name], here)
    assert reported.returncode == 0, reported.stderr


FAULTY = """
import torch
from torch import nn

def train(run):
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)).to(run.device)
    optimizer = torch.optim.AdamW(model.parameters())
    run.drive(model)
    run.keep(model=model, optimizer=optimizer)
    for step in run.steps():
        x = torch.randn(16, 4, generator=run.generator)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 7 and run.dropout_rate == 0:
            raise RuntimeError("no dropout, no training")
        if run.is_due(step):
            run.report(val_loss=loss.item(), train_loss=loss.item(), best_of=float(step))
"""


def test_an_error_in_the_task_fails_its_trial_with_the_traceback(tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY)
    new = ["--task", "faulty.py:train", "--steps", "20", "--gpus", "0", "--trials", "3", "--name", "s"]
    done = run(["-m", "study.search", *new], tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    study_ = Study(tmp_path, "s", done.stdout)
    failed = [t for t in study_.trials().values() if t.data.tags["outcome"] == "failed"]
    assert [t.data.params["schedule.rate"] for t in failed] == ["0.0"]
    completed = next(t for t in study_.trials().values() if t.data.tags["outcome"] == "completed")
    assert study_.history(completed, "best_of") == [(0, 0.0)] + [(step, step - 1.0) for step in range(2, 21)]
    table = read_parquet(tmp_path / "studies" / "s" / "trials.parquet")
    assert {row["metrics"]["best_of"] for row in table if row["step"] == 20} == {19.0}
    assert "no dropout, no training" in done.stdout
    (tmp_path / "faulty.py").write_text(FAULTY + "# another version\n")
    changed = run([*RESUME, "--task", "faulty.py:train"], tmp_path)
    assert changed.returncode == 2
    assert "--task faulty.py:train has changed" in changed.stderr
    again = run(RESUME, tmp_path)
    assert again.returncode == 0, again.stderr
    text = yaml.safe_load((tmp_path / "studies" / "s" / "study.yaml").read_text())
    assert text["preset"] == "task"
