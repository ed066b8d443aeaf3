"""A real study confirmed for real: interrupted, gone on with, and looked at through its folder and MLflow."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from study.confirm.__main__ import main
from study.confirm.arms import (
    BASELINE,
    SWEEP_RATES,
    arms,
    best_of_study,
)
from study.confirm.results import read_results
from study.confirm.verdict import judge
from study.training.measures_file import Measures
from study.training.run_folder import RunFolder
from tests.conftest import Study, run, start
from tests.test_mistakes import check

COMMAND = ["-m", "study.confirm", "--top", "2", "--seeds", "2", "--sweep-seeds", "1", "--gpus", "0"]


@pytest.fixture(scope="module")
def confirmed(finished_study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, str, str]:
    """A copy of the real study, confirmed: what was printed when it was interrupted, and when it went on to its end.

    It goes on with another MLflow store, which has none of the runs that have ended before.
    """
    study = Study(tmp_path_factory.mktemp("confirmed"), finished_study.name, finished_study.output)
    shutil.copytree(finished_study.folder, study.folder, dirs_exist_ok=True)
    shutil.copy(study.folder / "mlflow.db", study.folder / "first.db")
    command = [*COMMAND, "--study", study.name, "--tracking-uri"]
    process = start(["-u", *command, f"sqlite:///{study.folder / 'first.db'}"], study.folder)
    try:
        assert process.stdout is not None
        printed = ""
        while printed.count("completed") < 3:
            line = process.stdout.readline()
            assert line, f"the confirmation ended: {printed}{process.stderr and process.stderr.read()}"
            printed += line
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, printed + out + err
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    done = run([*command, f"sqlite:///{study.folder / 'mlflow.db'}"], study.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return study, printed + out, done.stdout


def folder_of(study: Study) -> Path:
    return study.folder / "studies" / study.name / "confirmation"


@pytest.mark.slow
def test_an_interrupted_confirmation_goes_on_where_it_stopped(confirmed: tuple[Study, str, str]) -> None:
    study, before, after = confirmed
    assert "give the same command again" in before
    ended = {line.split()[0] for line in before.splitlines() if line.endswith("completed")}
    again = {line.split()[0] for line in after.splitlines() if line.endswith("completed")}
    assert len(ended) >= 3
    assert not ended & again
    results = read_results(folder_of(study))
    names = {f"{run['arm']}/seed-{run['seed']}" for run in results.runs + results.sweep}
    assert ended | again == names
    assert {run["outcome"] for run in results.runs + results.sweep} == {"completed"}
    assert not list(folder_of(study).rglob("resume"))


@pytest.mark.slow
def test_arms_share_fresh_seeds_and_the_sweep_has_others(confirmed: tuple[Study, str, str]) -> None:
    study, _, _ = confirmed
    results = read_results(folder_of(study))
    found = json.loads((folder_of(study) / "verdict.json").read_text())
    seeds = {run["arm"]: set() for run in results.runs}
    for row in results.runs:
        seeds[row["arm"]].add(row["seed"])
    assert seeds == {arm["arm"]: set(found["seeds"]) for arm in found["arms"]}
    swept = {run["seed"] for run in results.sweep}
    assert len(found["seeds"]) == 2
    assert not {1337} & (set(found["seeds"]) | swept)
    assert not set(found["seeds"]) & swept
    assert [item["rate"] for item in found["sweep"]] == list(SWEEP_RATES)
    for seed in found["seeds"]:  # before the first update the same weights have the same loss in all arms
        first = [row for row in results.evaluations if (row["seed"], row["step"]) == (seed, 0)]
        assert len(first) == len(found["arms"])
        assert len({row["val_loss"] for row in first}) == len({row["full_val_loss"] for row in first}) == 1


@pytest.mark.slow
def test_mlflow_has_a_parent_and_a_child_a_run(confirmed: tuple[Study, str, str]) -> None:
    study, _, _ = confirmed
    (parent,) = study.runs("confirmation")
    assert parent.info.status == "FINISHED"
    names = {file.path for file in study.client.list_artifacts(parent.info.run_id)}
    assert {"verdict.json", "runs.parquet", "evaluations.parquet", "sweep.parquet"} <= names
    children = {run.info.run_id: run for run in study.runs("confirmation_run")}
    results = read_results(folder_of(study))
    assert {row["run_id"] for row in results.runs + results.sweep} == children.keys()
    for row in results.runs + results.sweep:
        child = children[row["run_id"]]
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (child.data.tags["arm"], child.data.tags["seed"]) == (row["arm"], str(row["seed"]))
        for name in ("test_loss", "train_loss_dropout_off", "sampling_tokens_per_second"):
            assert study.history(child, name) == [(60, row[name])]
        steps = [step for step, _ in study.history(child, "val_loss")]
        assert steps == [step for step, _ in study.history(child, "full_val_loss")] == list(range(0, 61, 10))
    assert len(study.trials()) == 10, "the trials of the study are its own"


@pytest.mark.slow
def test_the_verdict_can_be_computed_again_from_the_tables(confirmed: tuple[Study, str, str]) -> None:
    study, _, printed = confirmed
    folder = folder_of(study)
    found = json.loads((folder / "verdict.json").read_text())
    assert found["verdict"] in printed
    assert printed.count("Claim:") == 4
    results = read_results(folder)
    (winner, *_) = best_of_study(_rows(study), 1)
    assert found["arms"][0]["arm"] == BASELINE
    rate = found["arms"][0]["schedule"]["rate"]
    chosen, same_as = arms(best_of_study(_rows(study), 2), rate, 60)
    again = judge(results, chosen, baseline=BASELINE, same_as=same_as)
    assert again == found
    top = {**{arm["arm"]: arm["schedule"] for arm in found["arms"]}, **found["same_as"]}["top-1"]
    assert top == winner.schedule.to_dict() or top in (BASELINE, "no-dropout")


@pytest.mark.slow
def test_a_confirmation_that_is_complete_is_shown_without_ray(confirmed: tuple[Study, str, str]) -> None:
    study, _, printed = confirmed
    code = (
        "import sys; from study.confirm.__main__ import main; status = main(sys.argv[1:]);"
        "assert 'ray' not in sys.modules; sys.exit(status)"
    )
    done = run(["-c", code, *COMMAND[2:], "--study", study.name], study.folder)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder_of(study) / "verdict.json").read_text())["verdict"] in done.stdout
    assert done.stdout.strip() in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "named"), [(["--top", "1"], "--top 1 contradicts"), (["--seeds", "1"], "--seeds 1 contradicts")]
)
def test_a_flag_that_contradicts_the_confirmation(
    confirmed: tuple[Study, str, str],
    more: list[str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study, _, _ = confirmed
    monkeypatch.chdir(study.folder)
    check(lambda: main(["--study", study.name, *more]), named, study.folder, capsys)


@pytest.mark.slow
def test_each_run_keeps_its_best_weights_and_measures(confirmed: tuple[Study, str, str]) -> None:
    study, _, _ = confirmed
    for row in read_results(folder_of(study)).runs:
        folder = RunFolder(folder_of(study) / "runs" / row["arm"] / f"seed-{row['seed']}")
        assert folder.weights.exists()
        assert Measures.read(folder.path).test_loss == row["test_loss"]


def _rows(study: Study) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(study.folder / "studies" / study.name / "trials.parquet").to_pylist()


# Looks, and power.


# Arms, from made-up trials.
