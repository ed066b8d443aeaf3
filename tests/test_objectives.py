"""Two objectives: a search for the best loss and the training time, whose trials run alone."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna
import pytest
import ray
import yaml
from optuna.trial import TrialState

from study.base.errors import UserError
from study.base.names import LOSS_AND_TIME
from study.engine import sampler
from study.engine.cluster import share_out
from study.engine.optuna_runs import OptunaRuns, ask_known_good_first, open_optuna_study
from study.engine.searcher import RunSearcher
from study.engine.worker_messages import DIVERGED, FAILED
from study.records.optuna_study import loss_of, open_storage, seconds_of, unfinished
from study.records.study_layout import StudyFolder
from study.report.edges import winner_edges
from study.report.page import make_report
from study.report.parameters import draw_slices, importance
from study.search.options import SearchOptions
from tests.conftest import Study, run, search
from tests.test_report_data import optuna_study as study_of_one_objective
from tests.test_report_page import source, words
from tests.test_searcher import TRAINING, Notes


def timed_study(journal: Path) -> optuna.Study:
    return open_optuna_study(open_storage(None, journal), "study", "tpe", 1, LOSS_AND_TIME)


def test_optuna_is_told_both_numbers_and_each_evaluation(tmp_path: Path) -> None:
    study = timed_study(tmp_path / "journal")
    ask_known_good_first(study, "dynamic_dropout")
    searcher = RunSearcher(OptunaRuns(study, "dynamic_dropout", TRAINING), [Notes()])
    for name in ("a", "b", "c", "d"):
        searcher.suggest(name)
    for step, loss in ((0, 4.0), (50, 2.5), (100, 2.0)):
        searcher.on_trial_result("a", {"step": step, "best_val_loss": loss, "train_seconds": step / 10})
    searcher.on_trial_complete("a", {"step": 100, "best_val_loss": 2.0, "train_seconds": 10.0})
    searcher.on_trial_result("b", {"step": 50, "best_val_loss": 3.0, "train_seconds": 5.0})
    searcher.on_trial_complete("c", {FAILED: "diverged: val_loss is nan", DIVERGED: True})
    assert searcher.broken is None
    again = timed_study(tmp_path / "journal")  # as a resumed study opens it
    first, second, third, _ = again.get_trials(states=(TrialState.COMPLETE, TrialState.RUNNING, TrialState.FAIL))
    assert (first.values, loss_of(first), seconds_of(first)) == ([2.0, 10.0], 2.0, 10.0)
    assert first.intermediate_values == {0: 4.0, 50: 2.5, 100: 2.0}
    assert (third.state, loss_of(third), seconds_of(third)) == (TrialState.FAIL, None, None)
    assert second in unfinished(again)
    assert second.intermediate_values == {50: 3.0}


@pytest.mark.parametrize("most", [256, 12])
def test_the_sampler_finds_trials_that_are_fast_and_those_that_are_good(tmp_path: Path, most: int) -> None:
    """The loss wants a rate of 0.5, the time wants 0, and a rate above 0.8 diverges."""
    study = timed_study(tmp_path / "journal")
    rates = []
    with patch.object(sampler, "MOST_TRIALS", most):
        for _ in range(60):
            trial = study.ask()
            rates.append(rate := trial.suggest_float("rate", 0.0, 1.0))
            if rate > 0.8:
                trial.set_user_attr(DIVERGED, True)
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, [2 + (rate - 0.5) ** 2, 1 + rate])
    late = rates[20:]
    assert sum(rate > 0.8 for rate in late) <= 0.1 * len(late)
    assert sum(rate > 0.5 for rate in late) < 0.3 * len(late), "such trials are slower than 0.5, and no better"
    assert min(late) < 0.1
    assert any(0.4 < rate < 0.6 for rate in late)


def test_trials_on_a_cpu_run_one_after_another() -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0}}, {"Alive": True, "Resources": {"CPU": 8.0}}]
    with patch.object(ray, "nodes", lambda: nodes):
        slots = share_out(0, 1, 20, fixed=False, alone=True)
        assert (slots.count, slots.limit, slots.threads) == (1, 1, 1)
        assert share_out(0, 1, 20, fixed=False).count == 16


def test_the_default_scheduler_stops_no_trial_whose_time_counts() -> None:
    assert SearchOptions(objectives=LOSS_AND_TIME).chosen_scheduler == "none"
    assert SearchOptions(objectives=LOSS_AND_TIME, scheduler="none").chosen_scheduler == "none"
    assert (SearchOptions().chosen_scheduler, SearchOptions(scheduler="none").chosen_scheduler) == ("asha", "none")
    with pytest.raises(UserError, match="ASHA compares losses alone"):
        SearchOptions(objectives=LOSS_AND_TIME, scheduler="asha")
    with pytest.raises(UserError, match="--trials-per-gpu 2 lets trials share a GPU"):
        SearchOptions(objectives=LOSS_AND_TIME, trials_per_gpu=2)


def test_the_report_reads_the_losses_of_two_objectives() -> None:
    alone = study_of_one_objective(20)
    both = optuna.create_study(directions=["minimize", "minimize"])
    for trial in alone.trials:
        loss = loss_of(trial)
        assert loss is not None
        values = [loss, 100 - loss]
        both.add_trial(optuna.trial.create_trial(values=values, params=trial.params, distributions=trial.distributions))
    assert winner_edges(both) == winner_edges(alone)
    found = importance(both)
    assert found is not None
    assert found == importance(alone)
    assert [d.wide for d in draw_slices(both, found)] == [d.wide for d in draw_slices(alone, found)]


def test_the_page_lists_the_front() -> None:
    made = source()
    timed = replace(made, config=replace(made.config, objectives=LOSS_AND_TIME, scheduler="none"))
    assert 'id="front"' in make_report(timed).html
    assert "with --pick best, the other with --pick fastest" in words(make_report(timed))
    assert 'id="front"' not in make_report(made).html


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A real study of two trials that got a third."""
    folder = tmp_path_factory.mktemp("timed")
    search(folder, "timed", "--gpus", "0", "--trials", "2", "--objectives", LOSS_AND_TIME)
    done = run(["-m", "study.search", "--name", "timed", "--resume", "--trials", "3"], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return Study(folder, "timed", done.stdout)


def rows(study: Study) -> dict[int, list[dict[str, Any]]]:
    files = sorted((study.folder / "studies" / study.name).glob("trials/*/metrics.jsonl"))
    return {i: [json.loads(line) for line in path.read_text().splitlines()] for i, path in enumerate(files)}


@pytest.mark.slow
def test_no_trial_runs_beside_another(timed: Study) -> None:
    folder = StudyFolder(timed.folder / "studies", timed.name)
    assert (folder.read_config().objectives, folder.read_config().scheduler) == (LOSS_AND_TIME, "none")
    times = [
        [int(line.split()[1]) for line in path.read_text().splitlines()]
        for path in sorted(folder.path.glob("trials/*/times.txt"))
    ]
    assert len(times) == 3
    spans = sorted((min(mine), max(mine)) for mine in times)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    study = optuna.load_study(study_name="timed", storage=open_storage(None, folder.journal))
    for number, evaluations in rows(timed).items():
        best = min(row["val_loss"] for row in evaluations)
        assert study.trials[number].values == [best, evaluations[-1]["train_seconds"]]


@pytest.mark.slow
@pytest.mark.parametrize("pick", ["best", "fastest"])
def test_an_end_of_the_front_is_exported_from_mlflow_alone(timed: Study, tmp_path: Path, pick: str) -> None:
    loss = {number: min(row["val_loss"] for row in mine) for number, mine in rows(timed).items()}
    seconds = {number: mine[-1]["train_seconds"] for number, mine in rows(timed).items()}
    front = [n for n in loss if not any(seconds[m] <= seconds[n] and loss[m] <= loss[n] for m in loss if m != n)]
    front.sort(key=lambda number: seconds[number])
    uri = f"sqlite:///{timed.folder / 'mlflow.db'}"
    done = run(["-m", "study.export", "--study", "timed", "--pick", pick, "--tracking-uri", uri], tmp_path)
    assert done.returncode == 0, done.stderr
    points = [f"trial {number} ({seconds[number]:.1f} s, {loss[number]:.4f})" for number in front]
    assert f"Pareto front, fastest first: {', '.join(points)}\n" in done.stdout
    exported = yaml.safe_load((tmp_path / "best_schedule.yaml").read_text())
    wanted = front[-1] if pick == "best" else front[0]
    assert exported["provenance"]["trial"] == wanted
    assert wanted == min(loss if pick == "best" else seconds, key=(loss if pick == "best" else seconds).__getitem__)
    table = timed.output[timed.output.index("Pareto front of loss and training time") :].splitlines()
    assert [int(line.split()[1]) for line in table if line.startswith("│")] == front


@pytest.mark.slow
def test_a_resumed_study_keeps_its_trials_alone(timed: Study) -> None:
    resume = ["-m", "study.search", "--name", "timed", "--resume"]
    for more, said in (
        (["--trials-per-gpu", "2"], "--trials-per-gpu 2 lets trials share a GPU"),
        (["--scheduler", "asha"], "--scheduler asha contradicts the study, which has none"),
        (["--objectives", "loss"], "--objectives loss contradicts the study, which has loss,time"),
    ):
        done = run([*resume, *more], timed.folder)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
