"""What must be true of a study, whatever happened on its way: Optuna, MLflow and the folder tell the same, once."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from study.corpus import load_corpus
from study.tasks.data import Data, make_trainer
from study.tasks.task_files import read_kept
from study.training.evaluation_rows import METRICS
from study.training.schedule_file import read_schedule_file
from study.training.task_config import TaskConfig

OUTCOMES = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "stopped_early", TrialState.FAIL: "failed"}
STATUS = {"completed": "FINISHED", "stopped_early": "KILLED", "failed": "FAILED"}


def optuna_study(folder: Path) -> optuna.Study:
    """Returns the Optuna study in a study's folder."""
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    return optuna.load_study(study_name=folder.name, storage=storage)


def runs(client: MlflowClient, name: str, role: str) -> list[Run]:
    """Returns the runs of a study that have a role."""
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.role = '{role}'", max_results=1000))


def rows(folder: Path, number: int) -> list[dict[str, Any]]:
    """Returns the evaluations of a trial, from its folder."""
    path = folder / "trials" / f"{number:05d}" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def check_whole(folder: Path, client: MlflowClient, trials: int) -> Mapping[int, str]:
    """Checks a study that has ended; returns the outcome of each trial.

    Optuna has exactly the trials asked for, MLflow one parent run and one child run a trial with the same outcome; each
    curve has each evaluation of the trial's own file once, in order, with the same numbers; the table has them too.
    """
    study = optuna_study(folder)
    outcomes = {trial.number: OUTCOMES[trial.state] for trial in study.trials if trial.state is not TrialState.WAITING}
    assert sorted(outcomes) == list(range(trials))
    (parent,) = runs(client, folder.name, "study")
    assert parent.info.status in ("FINISHED", "FAILED")
    children = {int(run.data.tags["trial"]): run for run in runs(client, folder.name, "trial")}
    assert len(runs(client, folder.name, "trial")) == len(children) == trials
    table = pq.read_table(folder / "trials.parquet").to_pylist()
    for number, outcome in outcomes.items():
        run, mine = children[number], rows(folder, number)
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (run.data.tags["outcome"], run.info.status) == (outcome, STATUS[outcome]), number
        assert run.info.start_time <= run.info.end_time
        steps = [row["step"] for row in mine]
        assert steps == sorted(set(steps)), number
        for metric in METRICS:
            history = client.get_metric_history(run.info.run_id, metric)
            told_values = [(row["step"], row[metric]) for row in mine if row[metric] is not None]
            assert [(point.step, point.value) for point in history] == told_values, (number, metric)
            times = [point.timestamp for point in history]
            assert times == sorted(times), (number, metric)
        reported = study.trials[number].intermediate_values
        told = {row["step"]: row["best_val_loss"] for row in mine}
        if outcome == "failed":  # its worker may have died before it could tell of the last one
            told = {step: loss for step, loss in told.items() if step in reported or step < max(told)}
        assert reported == told, number
        assert [(row["step"], row["val_loss"]) for row in table if row["trial"] == number] == [
            (row["step"], row["val_loss"]) for row in mine
        ]
    return outcomes


def check_as_never_stopped(folder: Path, number: int) -> None:
    """Checks that a trial's losses are, bit for bit, those of the same training in one go."""
    trial = folder / "trials" / f"{number:05d}"
    file = read_schedule_file(trial / "config.yaml")
    assert file.training is not None
    is_task = isinstance(file.training, TaskConfig)
    data: Data = read_kept(folder / "task") if is_task else load_corpus(file.training.corpus)
    trainer = make_trainer(file.training, file.regularizer, data, "cpu", trial)
    expected = [(p.step, p.train_loss, p.val_loss) for p in trainer.run()]
    assert [(row["step"], row["train_loss"], row["val_loss"]) for row in rows(folder, number)] == expected
