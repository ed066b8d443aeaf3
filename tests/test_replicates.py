"""Replicates: the best trials of a search are trained with more seeds, and the winner is the lowest mean."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from study.base.names import PARENT_RUN, Outcome, Role
from study.base.ranking import MORE_SEEDS, best_first, mean_of_seeds
from study.base.sealed_files import read_kept, write_kept
from study.bench.replicates import SETTINGS, Setting, chosen_loss
from study.confirm.arms import best_of_study
from study.confirm.options import MOST_SEEDS
from study.confirm.plan import SWEEP_OFFSET, read_study
from study.engine.replicate_runs import ReplicateRuns
from study.engine.run_source import Ending, Signal
from study.records.replicates import SEED_OFFSET, kept_replicates, losses_in_table, replicate_losses, replicates_of
from study.records.storage import Storage
from study.records.study_layout import StudyFolder
from study.report.analysis import Analysis
from study.search.replicates import lacking_replicates, wanted_replicates
from study.tracking.experiment import has_all
from study.tracking.mlflow_sender import MLflowSender
from study.tracking.run_record import RunRecord
from tests.conftest import Study, run, start
from tests.test_report_data import trial as report_trial
from tests.test_report_page import config, source

CONSTANT, LINEAR = {"kind": "constant", "rate": 0.2}, {"kind": "linear", "initial_rate": 0.2, "final_rate": 0.2}
OTHER, THIRD = {"kind": "constant", "rate": 0.3}, {"kind": "constant", "rate": 0.4}
LOSSES = st.lists(st.sampled_from([1.0, 1.5, 2.0]), max_size=3)


def optuna_study(*trials: tuple[dict[str, Any], float | None]) -> optuna.Study:
    """A study whose trials have these schedules and losses; a trial without a loss has failed."""
    study = optuna.create_study()
    for schedule, loss in trials:
        state = TrialState.FAIL if loss is None else TrialState.COMPLETE
        study.add_trial(create_trial(state=state, value=loss, user_attrs={"schedule": schedule}))
    return study


@given(st.lists(st.tuples(st.sampled_from([1.0, 1.5, 2.0]), LOSSES), max_size=6))
def test_the_winner_is_the_lowest_mean_of_the_trials_that_have_all_seeds(
    trials: list[tuple[float, list[float]]],
) -> None:
    replicates = {number: losses for number, (_, losses) in enumerate(trials)}
    found = best_first(
        range(len(trials)), loss=lambda n: trials[n][0], number=lambda number: number, replicates=replicates
    )
    whole = [n for n, (_, more) in enumerate(trials) if len(more) >= MORE_SEEDS]
    rest = [n for n in range(len(trials)) if n not in whole]
    by_mean = sorted(whole, key=lambda n: (fmean([trials[n][0], *trials[n][1]]), n))
    assert found == by_mean + sorted(rest, key=lambda n: (trials[n][0], n))


def test_one_replicate_of_two_is_no_mean() -> None:
    assert mean_of_seeds(1.0, [2.0]) is None
    assert mean_of_seeds(1.0, [2.0, 6.0]) == 3.0


def test_replicates_are_of_the_best_distinct_completed_trials() -> None:
    study = optuna_study((CONSTANT, 2.0), (LINEAR, 1.9), (OTHER, None), (THIRD, 2.5), (OTHER, 3.0))
    settings = replace(config(5), replicate=2, seed=7)
    wanted = wanted_replicates(study, settings)
    assert [(mine.trial, mine.seed) for mine in wanted] == [(1, 10_007), (1, 10_008), (3, 10_007), (3, 10_008)]
    assert [mine.trial for mine in wanted_replicates(study, replace(settings, replicate=99))] == [1, 1, 3, 3, 4, 4]
    assert lacking_replicates(study, settings) == wanted
    assert lacking_replicates(study, replace(settings, trials=6)) == [], "the best are not known yet"
    replace(wanted[0], outcome=Outcome.FAILED).keep(study)
    replace(wanted[2], step=20).keep(study)
    assert lacking_replicates(study, settings) == [wanted[1], replace(wanted[2], step=20), wanted[3]]


def test_seeds_of_replicates_are_none_of_a_confirmation() -> None:
    last_of_arms, last_of_sweep = MOST_SEEDS, SWEEP_OFFSET + MOST_SEEDS
    assert max(last_of_arms, last_of_sweep) < SEED_OFFSET
    assert all(0 <= mine.seed < 2**31 for mine in replicates_of(0, 2**31 - 1))


def test_the_optuna_study_keeps_how_each_replicate_went() -> None:
    study = optuna_study((CONSTANT, 2.0), (OTHER, 3.0))
    settings = replace(config(2), replicate=2)
    source = ReplicateRuns(study, settings.training, lacking_replicates(study, settings))
    first = source.next()
    assert not isinstance(first, Signal)
    assert (first.trial, first.training.seed, first.regularizer) == (0, 10_001, {"schedule": CONSTANT})
    assert first.training == replace(settings.training, seed=10_001)
    assert [mine.outcome for mine in kept_replicates(study).values()] == [None], "begun"
    source.give_back(first)
    assert source.next() == first
    source.progressed(first.key, {"step": 60})
    source.ended(first.key, Ending(outcome=Outcome.COMPLETED, value=2.25))
    second = source.next()
    assert not isinstance(second, Signal)
    source.ended(second.key, Ending(outcome=Outcome.FAILED, reason="diverged"))
    assert replicate_losses(study) == {0: [2.25]}
    (kept, failed) = kept_replicates(study).values()
    assert (kept.step, kept.outcome, failed.reason) == (60, Outcome.COMPLETED, "diverged")
    assert [mine.trial for mine in lacking_replicates(study, settings)] == [1, 1], "a failure is not tried again"
    assert not isinstance(source.next(), Signal)
    assert not isinstance(source.next(), Signal)
    assert source.next() is Signal.DONE


def test_mlflow_has_a_replicate_under_the_study(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    ended: dict[str, Any] = {"status": "FINISHED", "end_tags": {"outcome": "completed"}, "is_final": True}
    name = "trial-0-seed-9"
    records = [
        RunRecord(key=PARENT_RUN, name="s", params={}, tags={}, status="FINISHED"),
        RunRecord(key=0, name="trial-0", params={}, tags={}, **ended),
        RunRecord(key=name, name=name, params={}, tags={"trial": "0", "seed": "9"}, **ended),
    ]
    for _ in range(2):  # another session finds the same runs
        store = MLflowSender(uri, "s", tmp_path, Storage(str(tmp_path)), Role.STUDY)
        store.want(records, {})
        store.send(60)
        store.send(60)
    runs = Study(tmp_path, "s", "")
    (parent,), (trial,), (replicate,) = (runs.runs(role) for role in ("study", "trial", "replicate"))
    tags = replicate.data.tags
    assert (tags["trial"], tags["seed"], tags["run"], tags["outcome"]) == ("0", "9", name, "completed")
    assert tags["mlflow.parentRunId"] == trial.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert has_all(uri, "s", Role.STUDY, {0: Outcome.COMPLETED, name: Outcome.COMPLETED}) is True
    assert has_all(uri, "s", Role.STUDY, {0: Outcome.COMPLETED, "trial-0-seed-8": Outcome.COMPLETED}) is False


def test_a_config_of_an_earlier_version_has_no_replicates(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "study")
    folder.make()
    folder.write_config(replace(config(3), replicate=2, corpus_sha256="x"))
    assert folder.read_config().replicate == 2
    text = read_kept(folder.config).decode()
    write_kept(folder.config, "".join(line for line in text.splitlines(True) if not line.startswith("replicate:")))
    assert folder.read_config() == replace(config(3), corpus_sha256="x")


def test_simulated_searches_choose_as_order_statistics_say() -> None:
    generator = np.random.default_rng(1)
    exact = Setting(between_trials=1.0, between_seeds=1e-9)
    loss, error = chosen_loss(generator, exact, 5, 0)
    assert loss == pytest.approx(-1.16296, abs=5 * error)  # the mean of the least of five normal numbers (Harter 1961)
    assert chosen_loss(generator, exact, 5 + 2 * MORE_SEEDS, 2)[0] == pytest.approx(-1.16296, abs=5 * error)
    noise = Setting(between_trials=1.0, between_seeds=2.0)
    loss, error = chosen_loss(generator, noise, 2 * (1 + MORE_SEEDS), 2)  # both of two trials have all seeds
    shrunken = 1 / (1 + 2.0**2 / (1 + MORE_SEEDS)) ** 0.5
    assert loss == pytest.approx(-0.56419 * shrunken, abs=5 * error)


def test_replicates_help_where_seeds_differ_as_much_as_trials_and_cost_where_they_do_not() -> None:
    generator = np.random.default_rng(2)
    gain = [chosen_loss(generator, s, 32, 4)[0] - chosen_loss(generator, s, 32, 0)[0] for s in SETTINGS]
    assert gain[0] < -0.001
    assert gain[1] < -0.001
    assert gain[2] > 0


def test_the_report_ranks_by_the_mean() -> None:
    from study.report.trials import ranked

    lucky = report_trial(0, [3.0, 1.0])
    lucky = replace(lucky, record=replace(lucky.record, replicates=(2.0, 3.0)))
    steady = report_trial(1, [3.0, 1.5])
    steady = replace(steady, record=replace(steady.record, replicates=(1.5, 1.5)))
    alone = report_trial(2, [3.0, 0.5])
    assert [t.number for t in ranked([lucky, steady, alone])] == [1, 0, 2]


def test_the_report_says_which_replicates_have_no_end_or_failed() -> None:
    study = optuna_study((CONSTANT, 2.0))
    first, second = replicates_of(0, 1)
    assert Analysis(replace(source(), study=study)).notices() == Analysis(source()).notices()
    first.keep(study)
    replace(second, outcome=Outcome.FAILED, reason="diverged").keep(study)
    notices = " ".join(Analysis(replace(source(), study=study)).notices())
    assert "1 replicate has no end yet: the winner may change." in notices
    assert "Replicates of trial 0 failed: trials without a mean rank behind" in notices


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study that dies while it trains the replicates of its best trial, and goes on with those of two trials."""
    folder = tmp_path_factory.mktemp("replicated")
    new = ["--preset", "smoke", "--gpus", "0", "--trials", "3", "--scheduler", "none", "--replicate", "1"]
    died = start(["-m", "tests.faults.search", "--name", "r", *new], folder, DIES="before a replicate's end is kept")
    out, err = died.communicate(timeout=300)
    assert died.returncode == -9, out + err
    done = run(["-m", "study.search", "--name", "r", "--resume", "--replicate", "2"], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return Study(folder, "r", done.stdout)


def study_folder(study: Study) -> StudyFolder:
    return StudyFolder(study.folder / "studies", study.name)


def losses_of(study: Study) -> Mapping[int, list[float]]:
    """The best losses of the trials, the study's own seed first, from the files of their runs."""
    found: dict[int, list[float]] = {}
    files = sorted(study_folder(study).path.glob("trials/*/metrics.jsonl"))
    for path in [*files, *sorted(study_folder(study).path.glob("replicates/*/*/metrics.jsonl"))]:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found.setdefault(rows[0]["trial"], []).append(min(row["val_loss"] for row in rows))
    return found


@pytest.mark.slow
@pytest.mark.faults
def test_replicates_that_were_killed_go_on_and_more_may_be_asked_for(replicated: Study) -> None:
    losses = losses_of(replicated)
    best = sorted(losses, key=lambda number: losses[number][0])
    assert [len(losses[number]) for number in best] == [3, 3, 1]
    assert {row["seed"] for row in read_table(replicated)} == {11_337, 11_338}
    again = run(["-m", "study.search", "--name", "r", "--resume"], replicated.folder)
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)


def read_table(study: Study) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(study_folder(study).replicates).to_pylist()
    return rows


@pytest.mark.slow
def test_all_agree_on_the_winner_by_the_mean(replicated: Study, tmp_path: Path) -> None:
    losses, folder = losses_of(replicated), study_folder(replicated)
    means = {number: fmean(mine) for number, mine in losses.items() if len(mine) == 3}
    winner = min(means, key=lambda number: means[number])
    assert yaml.safe_load(folder.best_schedule.read_text())["provenance"]["trial"] == winner
    assert {n: [losses[n][0], *more] for n, more in losses_in_table(read_table(replicated)).items()} == {
        n: losses[n] for n in means
    }
    _, best = read_study(folder)
    assert best[0].trial == winner
    assert best_of_study(pq.read_table(folder.table).to_pylist())[0].trial == min(losses, key=lambda n: losses[n][0])
    uri = f"sqlite:///{replicated.folder / 'mlflow.db'}"
    done = run(["-m", "study.export", "--study", "r", "--tracking-uri", uri], tmp_path)
    assert f"trial {winner} of study r" in done.stdout, done.stderr
    exported, original = (
        yaml.safe_load(f.read_text()) for f in (tmp_path / "best_schedule.yaml", folder.best_schedule)
    )
    assert exported["provenance"].pop("created") >= original["provenance"].pop("created")
    assert exported == original
    (parent,) = replicated.runs("study")
    assert parent.data.metrics["best_val_loss"] == losses[winner][0]
    assert parent.data.tags["replicate"] == "2"
    table = replicated.output[replicated.output.index("mean of 3 seeds") :].splitlines()
    first = next(line for line in table if line.startswith("│"))
    assert first.split()[1] == str(winner)
    assert f"{means[winner]:.4f}" in first


@pytest.mark.slow
def test_mlflow_and_the_report_have_each_replicate(replicated: Study, tmp_path: Path) -> None:
    rows = read_table(replicated)
    runs = replicated.runs("replicate")
    assert len(runs) == 4
    for mine in runs:
        number, seed = int(mine.data.tags["trial"]), int(mine.data.tags["seed"])
        points = [(row["step"], row["val_loss"]) for row in rows if (row["trial"], row["seed"]) == (number, seed)]
        assert replicated.history(mine, "val_loss") == points
        assert points[-1][0] == 60
        assert (mine.data.tags["outcome"], mine.info.status) == ("completed", "FINISHED")
        schedules = {replicated.trials()[number].data.params["schedule.kind"], mine.data.params["schedule.kind"]}
        assert len(schedules) == 1
    uri = f"sqlite:///{replicated.folder / 'mlflow.db'}"
    page = tmp_path / "page.html"
    done = run(["-m", "study.report", "--study", "r", "--tracking-uri", uri, "--output", str(page)], tmp_path)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    for losses in losses_of(replicated).values():
        if len(losses) == 3:
            assert f'data-value="{fmean(losses)}"' in text
    assert "has the lowest mean of 3 seeds, of 2 trials that have replicates." in text
