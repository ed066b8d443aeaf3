"""A study that an earlier version made is read, exported, confirmed and continued.

`data/study-a403b44` was made by commit a403b44, with `study.search --preset smoke --gpus 0 --name old --trials 4`. Its
MLflow store is kept as SQL. Paths in it are those of a machine that does not exist.
"""

import json
import shutil
import sqlite3
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient

from study.records.optuna_study import open_storage
from study.records.study_layout import StudyFolder
from tests.conftest import Study, run
from tests.faults.checks import check_whole

DATA = Path(__file__).parent / "data" / "study-a403b44"
WAS = "/home/ada/study"
ADDED = {"cuda_graphs": False, "deterministic": False}
"""The fields of the training config that are new since, at their defaults."""
NEW_COLUMNS = {"family": '{"kind": "standard"}', "depth": '{"kind": "uniform"}', "size_rule": '{"kind": "width"}'}
"""What a study was that knew neither."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with the study, its MLflow store and the store's artifacts, as if they had been made there."""
    for name in ("studies", "mlruns"):
        shutil.copytree(DATA / name, tmp_path / name)
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.executescript((DATA / "mlflow.sql").read_text().replace(WAS, str(tmp_path)))
    store.close()
    return tmp_path


def command(folder: Path, name: str, *arguments: str) -> str:
    done = run(["-m", f"study.{name}", *arguments, "--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}"], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "damaged" not in done.stdout + done.stderr
    return done.stdout


def test_its_config_and_journal_are_read(old: Path) -> None:
    folder = StudyFolder(old / "studies", "old")
    config = folder.read_config()
    assert (config.name, config.trials, config.training.steps) == ("old", 4, 60)
    study = optuna.load_study(study_name="old", storage=open_storage(None, folder.journal))
    begun = [trial for trial in study.trials if trial.state is not optuna.trial.TrialState.WAITING]
    assert [trial.number for trial in begun] == [0, 1, 2, 3]
    for trial in begun:
        losses = {row["step"]: row["val_loss"] for row in folder.trial(trial.number).rows()}
        assert trial.state is not optuna.trial.TrialState.COMPLETE or trial.value == min(losses.values())
        assert all(step in losses for step in trial.intermediate_values)


@pytest.mark.slow
def test_it_is_reported_and_exported(old: Path) -> None:
    table = old / "studies" / "old" / "trials.parquet"
    rows = pq.read_table(table).to_pylist()
    assert "4 trials of study old" in command(old, "report", "--study", "old")
    assert pq.read_table(table).to_pylist() == [row | NEW_COLUMNS for row in rows]
    command(old, "export", "--study", "old", "--output", str(old / "exported.yaml"))
    kept = yaml.safe_load((DATA / "studies" / "old" / "best_schedule.yaml").read_text())
    exported = yaml.safe_load((old / "exported.yaml").read_text())
    assert exported["provenance"].pop("created") > kept["provenance"].pop("created")
    kept["training"] |= ADDED
    assert exported == kept


@pytest.mark.slow
def test_it_is_continued(old: Path) -> None:
    folder, study = old / "studies" / "old", Study(old, "old", "")
    before = {number: (trial.info.run_id, trial.data.metrics) for number, trial in study.trials().items()}
    lines = (folder / "optuna.journal").read_bytes()
    command(old, "search", "--name", "old", "--resume", "--trials", "5")
    assert (folder / "optuna.journal").read_bytes().startswith(lines)
    outcomes = check_whole(folder, study.client, 5)
    assert sorted(outcomes) == [0, 1, 2, 3, 4]
    after = {number: (trial.info.run_id, trial.data.metrics) for number, trial in study.trials().items()}
    assert {number: after[number] for number in before} == before


@pytest.mark.slow
def test_it_is_confirmed(old: Path) -> None:
    command(old, "confirm", "--study", "old", "--top", "1", "--seeds", "1", "--sweep-seeds", "1")
    verdict = json.loads((old / "studies" / "old" / "confirmation" / "verdict.json").read_text())
    assert {arm["n"] for arm in verdict["arms"]} == {1}
    runs = MlflowClient(f"sqlite:///{old / 'mlflow.db'}").search_runs(["1"], "tags.role = 'confirmation'")
    assert [run.info.status for run in runs] == ["FINISHED"]
