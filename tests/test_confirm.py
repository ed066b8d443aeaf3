"""A real study confirmed for real: interrupted, gone on with, and looked at through its folder and MLflow."""

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from model.schedules import Constant, Exponential, Linear, Piecewise, Reversed, ValLoss
from study.confirm.arms import (
    BASELINE,
    SWEEP_RATES,
    CompletedTrial,
    arms,
    best_of_study,
    canonical,
    is_constant,
    mean_rate,
    most_arms,
    open_loop,
)
from study.confirm.results import read_results
from study.confirm.verdict import judge
from study.training.measures_file import Measures
from study.training.run_folder import RunFolder
from tests.conftest import Study, run, start

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
    confirmed: tuple[Study, str, str], more: list[str], named: str
) -> None:
    study, _, _ = confirmed
    done = run(["-m", "study.confirm", "--study", study.name, *more], study.folder)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert named in done.stderr


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


@pytest.fixture(scope="module")
def looked_at(finished_study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, dict, set[str], dict]:
    """A copy of the real study, confirmed with --until-decided: killed in its second look, and repeated.

    Returns the study, its verdict after the first look, the runs that had ended when it was killed, and the last one.
    """
    study = Study(tmp_path_factory.mktemp("looks"), finished_study.name, finished_study.output)
    shutil.copytree(finished_study.folder, study.folder, dirs_exist_ok=True)
    command = ["-m", "study.confirm", "--study", study.name, "--top", "1", "--sweep-seeds", "1", "--gpus", "0"]
    command += ["--until-decided", "--max-seeds", "4", "--smallest", "0.0001"]
    process = start(["-u", *command], study.folder)
    try:
        assert process.stdout is not None
        printed = ""
        while "completed" not in printed.partition("look at 3 seeds")[2]:
            line = process.stdout.readline()
            assert line, f"the confirmation ended: {printed}{process.stderr and process.stderr.read()}"
            printed += line
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    first = json.loads((folder_of(study) / "verdict.json").read_text())
    ended = {line.split()[0] for line in printed.splitlines() if line.endswith("completed")}
    done = run(command, study.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    again = {line.split()[0] for line in done.stdout.splitlines() if line.endswith("completed")}
    assert len(ended & again) <= 1, "at most the run whose end was not yet noted when the driver died"
    return study, first, ended | again, json.loads((folder_of(study) / "verdict.json").read_text())


@pytest.mark.slow
@pytest.mark.faults
def test_looks_go_on_exactly_where_a_killed_confirmation_stood(
    looked_at: tuple[Study, dict, set[str], dict],
) -> None:
    study, first, trained, last = looked_at
    before, after = first["sequential"], last["sequential"]
    assert (before["plan"], before["stopped"], len(before["looks"])) == ([3, 4], None, 1)
    assert after["looks"][0] == before["looks"][0]
    assert [look["seeds"] for look in after["looks"]] == [3, 4]
    assert (last["looks"], last["warnings"] and [w for w in last["warnings"] if "before" in w]) == ([3], [])
    assert after["stopped"] in ("shown", "excluded", "seeds")
    results = read_results(folder_of(study))
    assert {f"{row['arm']}/seed-{row['seed']}" for row in results.runs + results.sweep} == trained
    asked = {arm["arm"] for arm in after["looks"][1]["arms"]}
    assert {arm["arm"]: arm["n"] for arm in last["arms"]} == {
        arm["arm"]: 4 if arm["arm"] in asked | {BASELINE} else 3 for arm in last["arms"]
    }


@pytest.mark.slow
def test_decided_looks_are_shown_without_ray_and_cannot_be_changed(
    looked_at: tuple[Study, dict, set[str], dict],
) -> None:
    study, _, _, last = looked_at
    code = (
        "import sys; from study.confirm.__main__ import main; status = main(sys.argv[1:]);"
        "assert 'ray' not in sys.modules; sys.exit(status)"
    )
    done = run(["-c", code, "--study", study.name], study.folder)
    assert done.returncode == 0, done.stderr
    assert last["verdict"] in done.stdout
    for more, named in (
        (["--seeds", "9"], "--seeds contradicts"),
        (["--max-seeds", "9"], "--max-seeds 9 contradicts"),
        (["--smallest", "0.5"], "--smallest 0.5 contradicts"),
    ):
        flags = more if more[0] == "--seeds" else ["--until-decided", *more]
        done = run(["-m", "study.confirm", "--study", study.name, *flags], study.folder)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert named in done.stderr


@pytest.mark.slow
def test_power_is_told_and_drawn_without_ray(looked_at: tuple[Study, dict, set[str], dict]) -> None:
    study, _, _, last = looked_at
    code = (
        "import sys; from study.confirm.__main__ import main; status = main(sys.argv[1:]);"
        "assert 'ray' not in sys.modules; sys.exit(status)"
    )
    done = run(["-c", code, "--study", study.name, "--power", "--smallest", "0.02"], study.folder)
    assert done.returncode == 0, done.stderr
    assert f"seed SD {last['seed_sd']:.4f} nats, measured from the runs that exist" in done.stdout
    assert "excludes a gain of 0.02 nats or more" in done.stdout
    assert (folder_of(study) / "power.svg").read_text().startswith("<svg ")
    assert json.loads((folder_of(study) / "verdict.json").read_text()) == last


# Arms, from made-up trials.

VAL_LOSS = ValLoss(initial_rate=0.4, final_rate=0.0, factor=0.5, patience=1, min_delta=0.0)


def found(schedule, trial: int = 0, rates=((0.0, 0.4), (0.5, 0.2), (1.0, 0.1))) -> CompletedTrial:
    return CompletedTrial(trial=trial, schedule=schedule, rates=rates)


def test_controls_of_a_falling_winner() -> None:
    chosen, same_as = arms([found(Linear(0.3, 0.1)), found(Constant(0.1), 1)], 0.25, 1000)
    assert {arm.name: arm.schedule for arm in chosen} == {
        "best-constant": Constant(0.25),
        "no-dropout": Constant(0.0),
        "top-1": Linear(0.3, 0.1),
        "top-2": Constant(0.1),
        "mean-constant": Constant(0.2),
        "top-1-reversed": Reversed(Linear(0.3, 0.1)),
        "paper-linear": Linear(0.2, 0.0),
        "paper-exponential": Exponential(0.2, 0.0, math.log(10)),
        "paper-val_loss": ValLoss(0.2, 0.0, 0.5, 1, 0.0),
    }
    assert same_as == {}
    assert chosen[0].name == BASELINE


def test_an_arm_is_not_trained_twice() -> None:
    chosen, same_as = arms([found(Constant(0.2)), found(Linear(0.2, 0.0), 1)], 0.2, 1000)
    assert [arm.name for arm in chosen] == [
        "best-constant", "no-dropout", "top-2", "paper-exponential", "paper-val_loss",
    ]  # fmt: skip
    assert same_as == {
        "top-1": "best-constant",
        "mean-constant": "best-constant",
        "top-1-reversed": "best-constant",
        "paper-linear": "top-2",
    }


def test_arms_are_counted_for_a_rate_that_no_other_arm_has() -> None:
    """The sweep may choose the rate 0.2, which is a top schedule's, or another, which makes one arm more."""
    top = [found(Constant(0.2)), found(Linear(0.2, 0.0), 1)]
    assert len(arms(top, 0.2, 1000)[0]) == 5
    assert len(most_arms(top, 1000)) == len(arms(top, 0.35, 1000)[0]) == 6


def test_a_val_loss_winner_is_averaged_and_reversed_by_its_recorded_rates() -> None:
    winner = found(VAL_LOSS)
    points = ((0.0, 0.4), (0.5, 0.2), (1.0, 0.1))
    assert open_loop(winner) == Piecewise(points)
    chosen, _ = arms([winner], 0.2, 1000)
    by_name = {arm.name: arm.schedule for arm in chosen}
    assert by_name["top-1-reversed"] == Reversed(Piecewise(points))
    assert by_name["top-1-reversed"].rate(0.25) == pytest.approx(0.15)
    assert mean_rate(winner, 1000) == 0.23  # 0.225


@pytest.mark.parametrize(
    ("schedule", "simple"),
    [
        (Linear(0.2, 0.2), Constant(0.2)),
        (Constant(0.15000000000000002), Constant(0.15)),
        (Reversed(Linear(0.3, 0.1)), Linear(0.1, 0.3)),
        (Reversed(Reversed(Exponential(0.3, 0.1, 2.0))), Exponential(0.3, 0.1, 2.0)),
        (Piecewise(((0.0, 0.1), (1.0, 0.1))), Constant(0.1)),
        (Reversed(Piecewise(((0.0, 0.1), (1.0, 0.1)))), Constant(0.1)),
        (replace(VAL_LOSS, final_rate=0.4), Constant(0.4)),
    ],
)
def test_schedules_with_the_same_rates_are_one(schedule, simple) -> None:
    assert canonical(schedule) == simple
    assert is_constant(schedule) == isinstance(simple, Constant)
    assert all(schedule.rate(i / 10) == pytest.approx(simple.rate(i / 10)) for i in range(11))


def test_the_best_of_a_study_are_completed_and_distinct() -> None:
    def trial(number: int, schedule, losses: list[float], outcome: str) -> list[dict]:
        best = [min(losses[: i + 1]) for i in range(len(losses))]
        return [
            {"trial": number, "step": 10 * i, "progress": i / 2, "dropout_rate": 0.1, "best_val_loss": best[i],
             "schedule": json.dumps(schedule.to_dict()), "outcome": outcome}
            for i in range(len(losses))
        ]  # fmt: skip

    rows = [
        *trial(0, Constant(0.1), [4, 3, 3.5], "completed"),
        *trial(1, Linear(0.1, 0.0), [4, 2.9, 2.8], "completed"),
        *trial(2, Linear(0.1, 0.1), [4, 2.5, 2.4], "completed"),  # constant 0.1 again, and better
        *trial(3, Linear(0.3, 0.0), [4, 2.0], "stopped_early"),
        *trial(4, Linear(0.5, 0.0), [4, 1.0], "failed"),
        *trial(5, Linear(0.4, 0.0), [4, 3.3, 3.2], "completed"),
    ]
    assert [best.trial for best in best_of_study(rows, 2)] == [2, 1]
    assert [best.trial for best in best_of_study(rows, 9)] == [2, 1, 5]
    assert best_of_study(rows, 1)[0].rates == ((0.0, 0.1), (0.5, 0.1), (1.0, 0.1))
