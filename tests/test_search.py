"""A real study, looked at through what it leaves: MLflow, its folder, and what other commands make of it."""

import json
from dataclasses import asdict
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
import yaml
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from study.training.config import PRESETS, TrainingConfig
from study.training.evaluation_rows import METRICS, SCHEMA
from tests.conftest import Study, run

pytestmark = pytest.mark.slow

KNOWN_GOOD = ["constant 0", "constant 0.2", "linear", "exponential", "val_loss"]
STATUS = {"completed": "FINISHED", "stopped_early": "KILLED", "failed": "FAILED"}


@pytest.fixture(scope="module")
def optuna_study(finished_study: Study) -> optuna.Study:
    journal = finished_study.folder / "studies" / finished_study.name / "optuna.journal"
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    return optuna.load_study(study_name=finished_study.name, storage=storage)


def test_one_parent_and_one_child_a_trial(finished_study: Study) -> None:
    (parent,) = finished_study.runs("study")
    assert parent.info.status == "FINISHED"
    trials = finished_study.trials()
    assert sorted(trials) == list(range(10))
    assert len(finished_study.runs("trial")) == 10
    for trial in trials.values():
        assert trial.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert trial.info.status == STATUS[trial.data.tags["outcome"]]


def test_every_metric_has_every_evaluation_from_step_0(finished_study: Study) -> None:
    for trial in finished_study.trials().values():
        steps = [step for step, _ in finished_study.history(trial, "val_loss")]
        assert steps == list(range(0, steps[-1] + 1, 10))
        if trial.data.tags["outcome"] == "completed":
            assert steps[-1] == 60
        for metric in METRICS:
            assert [step for step, _ in finished_study.history(trial, metric)] == steps, metric


def test_params_are_the_flattened_config(finished_study: Study) -> None:
    training = PRESETS["smoke"].training
    for trial in finished_study.trials().values():
        params = trial.data.params
        assert {f"training.{name}" for name in asdict(training)} <= params.keys()
        assert float(params["training.learning_rate"]) == training.learning_rate
        assert params["schedule.kind"] in ("constant", "linear", "exponential", "val_loss")
        assert ("schedule.initial_rate" in params) == (params["schedule.kind"] != "constant")


def test_optuna_and_mlflow_tell_the_same(finished_study: Study, optuna_study: optuna.Study) -> None:
    outcomes = {
        TrialState.COMPLETE: "completed",
        TrialState.PRUNED: "stopped_early",
        TrialState.FAIL: "failed",
    }
    runs = finished_study.trials()
    assert len(optuna_study.trials) == 10
    assert any(trial.state is TrialState.PRUNED for trial in optuna_study.trials), "ASHA was to stop some"
    for trial in optuna_study.trials:
        assert outcomes[trial.state] == runs[trial.number].data.tags["outcome"]
        best = dict(finished_study.history(runs[trial.number], "best_val_loss"))
        assert trial.intermediate_values == pytest.approx(best)
        assert trial.value == pytest.approx(best[max(best)])


def test_known_good_configurations_come_first_and_reach_their_end(optuna_study: optuna.Study) -> None:
    first = optuna_study.trials[: len(KNOWN_GOOD)]
    kinds = [trial.user_attrs["schedule"] for trial in first]
    names = [f"{k['kind']} {k['rate']:.3g}" if k["kind"] == "constant" else k["kind"] for k in kinds]
    assert names == KNOWN_GOOD
    assert all(trial.state is TrialState.COMPLETE for trial in first)


def test_parent_carries_the_study(finished_study: Study) -> None:
    (parent,) = finished_study.runs("study")
    names = {file.path for file in finished_study.client.list_artifacts(parent.info.run_id)}
    assert {"best_schedule.yaml", "trials.parquet", "study.yaml"} <= names
    completed = [t for t in finished_study.trials().values() if t.data.tags["outcome"] == "completed"]
    best = min(trial.data.metrics["best_val_loss"] for trial in completed)
    assert parent.data.metrics["best_val_loss"] == best


def test_each_trial_has_its_checkpoint(finished_study: Study) -> None:
    for trial in finished_study.trials().values():
        names = {Path(f.path).name for f in finished_study.client.list_artifacts(trial.info.run_id, "checkpoint")}
        assert {"model.safetensors", "config.yaml"} <= names


def test_best_schedule_is_the_winner_with_its_origin(finished_study: Study) -> None:
    text = (finished_study.folder / "studies" / finished_study.name / "best_schedule.yaml").read_text()
    d = yaml.safe_load(text)
    assert list(d) == ["format", "schedule", "training", "provenance"]
    assert list(d["provenance"]) == [
        "study", "trial", "run_id", "best_val_loss", "best_step", "final_val_loss", "steps", "corpus_sha256", "commit",
        "versions", "created",
    ]  # fmt: skip
    assert TrainingConfig.from_dict(d["training"]).steps == 60
    completed = {n: t for n, t in finished_study.trials().items() if t.data.tags["outcome"] == "completed"}
    winner = min(completed, key=lambda n: completed[n].data.metrics["best_val_loss"])
    losses = dict(finished_study.history(completed[winner], "val_loss"))
    origin = d["provenance"]
    assert (origin["study"], origin["trial"], origin["steps"]) == (finished_study.name, winner, 60)
    assert origin["run_id"] == completed[winner].info.run_id
    assert origin["best_val_loss"] == min(losses.values()) == losses[origin["best_step"]]
    assert origin["final_val_loss"] == losses[60]
    names = {Path(f.path).name for f in finished_study.client.list_artifacts(origin["run_id"], "checkpoint")}
    assert "sample.txt" in names


def test_table_has_a_row_for_each_evaluation(finished_study: Study) -> None:
    table = pq.read_table(finished_study.folder / "studies" / finished_study.name / "trials.parquet")
    assert table.schema.equals(SCHEMA)
    rows = table.to_pylist()
    for number, trial in finished_study.trials().items():
        mine = [row for row in rows if row["trial"] == number]
        for metric in METRICS:
            assert [(row["step"], row[metric]) for row in mine] == finished_study.history(trial, metric)
        assert {row["outcome"] for row in mine} == {trial.data.tags["outcome"]}
        assert {json.loads(row["schedule"])["kind"] for row in mine} == {trial.data.params["schedule.kind"]}


def test_export_needs_mlflow_only(finished_study: Study, tmp_path: Path) -> None:
    uri = f"sqlite:///{finished_study.folder / 'mlflow.db'}"
    arguments = ["-m", "study.export", "--study", finished_study.name, "--tracking-uri", uri]
    done = run(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["best_schedule.yaml"]
    exported = yaml.safe_load((tmp_path / "best_schedule.yaml").read_text())
    original = yaml.safe_load(
        (finished_study.folder / "studies" / finished_study.name / "best_schedule.yaml").read_text()
    )
    exported["provenance"].pop("created")
    original["provenance"].pop("created")
    assert exported == original


def test_times_of_trials_that_ran_side_by_side_pick_none(finished_study: Study, tmp_path: Path) -> None:
    uri = f"sqlite:///{finished_study.folder / 'mlflow.db'}"
    arguments = ["-m", "study.export", "--study", finished_study.name, "--pick", "fastest", "--tracking-uri", uri]
    done = run(arguments, tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "minimised the loss alone" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_training_with_the_exported_schedule_repeats_the_trial(finished_study: Study, tmp_path: Path) -> None:
    file = finished_study.folder / "studies" / finished_study.name / "best_schedule.yaml"
    done = run(["-m", "study.train", "--schedule", str(file), "--output", "out"], tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    winner = finished_study.trials()[yaml.safe_load(file.read_text())["provenance"]["trial"]]
    assert [(row["step"], row["val_loss"]) for row in rows] == finished_study.history(winner, "val_loss")


def test_output_names_the_result_and_the_pages(finished_study: Study) -> None:
    out = finished_study.output
    assert "10 trials of 60 steps" in out
    assert "MB of disk" in out
    assert f"studies/{finished_study.name}/best_schedule.yaml" in out
    assert "mlflow ui" in out
    assert "Traceback" not in out


def test_finished_study_has_nothing_to_resume(finished_study: Study) -> None:
    before = {run.info.run_id for run in finished_study.runs("trial")}
    done = run(["-m", "study.search", "--name", finished_study.name, "--resume"], finished_study.folder)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    assert {run.info.run_id for run in finished_study.runs("trial")} == before
