"""The adapter between Optuna and Tune: what is asked, in which order, and how each end is told."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from ray.tune.search import Searcher

from model.regularizer import Regularizer
from model.schedules import from_dict
from search_spaces import KNOWN_GOOD, SPACES
from study.base.names import Key, Outcome
from study.engine.optuna_runs import OptunaRuns, ask_known_good_first, open_optuna_study
from study.engine.run_source import Ending, ListedRuns
from study.engine.run_spec import RunSpec
from study.engine.sampler import BEST_TRIALS, MOST_TRIALS, _shown, make_sampler
from study.engine.searcher import RunSearcher
from study.records.optuna_study import open_storage
from study.training.config import PRESETS

TRAINING = replace(PRESETS["smoke"].training, steps=100)


class Notes:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.ended: dict[Key, Outcome] = {}
        self.steps: dict[Key, list[int]] = {}

    def run_started(self, spec: RunSpec) -> None:
        self.steps[spec.key] = []

    def run_progressed(self, spec: RunSpec, result: Mapping[str, Any]) -> None:
        self.steps[spec.key].append(result["step"])

    def run_ended(self, spec: RunSpec, ending: Ending) -> None:
        self.ended[spec.key] = ending.outcome


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "optuna.journal"


def make(journal: Path, trials: float = math.inf) -> tuple[RunSearcher, Notes]:
    study = open_optuna_study(open_storage(None, journal), "study", "tpe", seed=1)
    ask_known_good_first(study, "dynamic_dropout")
    notes = Notes()
    return RunSearcher(OptunaRuns(study, "dynamic_dropout", TRAINING, trials), [notes]), notes


def states(journal: Path) -> list[TrialState]:
    return [t.state for t in optuna.load_study(study_name="study", storage=open_storage(None, journal)).trials]


def test_a_trial_knows_with_how_many_it_ever_shared_a_gpu(journal: Path) -> None:
    def session(trials_per_gpu: int, *ids: str) -> None:
        study = open_optuna_study(open_storage(None, journal), "study", "tpe", seed=1)
        searcher = RunSearcher(OptunaRuns(study, "constant", TRAINING, trials_per_gpu=trials_per_gpu), [Notes()])
        for trial_id in ids:
            searcher.suggest(trial_id)

    session(1, "a")
    session(2, "a", "b")  # goes on with the first, and begins another
    session(1, "a", "b", "c")
    study = optuna.load_study(study_name="study", storage=open_storage(None, journal))
    assert [trial.user_attrs.get("trials_per_gpu", 1) for trial in study.trials] == [2, 2, 1]


def result(step: int, loss: float = 2.0) -> dict[str, Any]:
    return {"step": step, "best_val_loss": loss}


@pytest.mark.parametrize("space", SPACES)
def test_every_space_makes_schedules_and_knows_good_ones(space: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for parameters in KNOWN_GOOD[space].values():
        study.enqueue_trial(parameters)
    kinds = set()
    for number in range(60):
        trial = study.ask()
        d = SPACES[space](trial)
        regularizer = Regularizer.from_dict(d)
        kinds.add(regularizer.schedule.kind)
        assert 0 <= regularizer.rate(0.0) <= 0.5
        if number < len(KNOWN_GOOD[space]):
            asked = list(KNOWN_GOOD[space].values())[number]
            assert asked.items() <= trial.params.items(), "what is asked must be in the space's ranges and grids"
            assert trial.params.keys() == asked.keys()
    numbers = {"constant": 1, "controls": 2, "curriculum": 3, "structured": 2, "families": 2, "sentences": 3}
    assert len(kinds) == numbers.get(space, 4)


def test_controls_run_the_papers_schedules_backwards() -> None:
    study = optuna.create_study()
    study.enqueue_trial(KNOWN_GOOD["controls"]["linear 0.2 to 0, reversed"])
    schedule = from_dict(SPACES["controls"](study.ask()))
    assert [schedule.rate(x) for x in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 0.1, 0.2])


def test_known_good_come_first_and_are_protected(journal: Path) -> None:
    searcher, _ = make(journal)
    configs = [searcher.suggest(f"t{i}") for i in range(7)]
    assert [c["number"] for c in configs] == list(range(7))
    assert [c["protected"] for c in configs] == [True] * 5 + [False] * 2
    assert configs[0]["spec"].regularizer == {"schedule": {"kind": "constant", "rate": 0.0}}
    assert configs[3]["spec"].regularizer["schedule"]["decay"] == pytest.approx(math.log(10))


def test_how_each_end_is_told(journal: Path) -> None:
    searcher, notes = make(journal)
    for i in range(4):
        searcher.suggest(f"t{i}")
    searcher.on_trial_result("t0", result(50))
    searcher.on_trial_complete("t0", result(100, 1.5))  # the last result comes only with the end
    searcher.on_trial_complete("t1", result(50))
    searcher.on_trial_result("t2", result(50))
    searcher.on_trial_complete("t2", error=True)
    searcher.on_trial_error("t2", "Failure # 3 ...")
    searcher.on_trial_complete("t3", {"failed": "diverged: val_loss is nan at step 50"})
    assert states(journal) == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.FAIL,
        TrialState.WAITING,
    ]
    trials = optuna.load_study(study_name="study", storage=open_storage(None, journal)).trials
    assert trials[0].value == 1.5
    assert trials[1].intermediate_values == {50: 2.0}
    assert "nan at step 50" in trials[3].user_attrs["reason"]
    assert notes.ended == {0: "completed", 1: "stopped_early", 2: "failed", 3: "failed"}


def test_an_evaluation_seen_before_is_told_to_the_listener_only(journal: Path) -> None:
    searcher, notes = make(journal)
    searcher.suggest("t0")
    for step in (0, 10, 20, 10, 20, 30):  # its worker died after step 20 and began again at 10
        searcher.on_trial_result("t0", result(step))
    assert notes.steps[0] == [0, 10, 20, 10, 20, 30]  # who passes on what it has not passed on yet
    (trial, *_) = optuna.load_study(study_name="study", storage=open_storage(None, journal)).trials
    assert trial.intermediate_values == {0: 2.0, 10: 2.0, 20: 2.0, 30: 2.0}


def test_what_was_broken_off_is_asked_again_first_as_it_was(journal: Path) -> None:
    first, _ = make(journal)
    configs = [first.suggest(f"t{i}") for i in range(2)]
    first.on_trial_complete("t0", result(100))
    first.on_trial_result("t1", result(50))  # and here its driver died
    assert states(journal)[:2] == [TrialState.COMPLETE, TrialState.RUNNING]
    second, notes = make(journal)
    assert second.suggest("u0") == configs[1]
    assert second.suggest("u1")["number"] == 2
    second.on_trial_result("u0", result(50))  # it comes again: the listener may not have heard of it
    assert notes.steps[1] == [50]
    second.on_trial_complete("u0", result(100))
    assert states(journal)[1] is TrialState.COMPLETE


def test_a_trial_whose_driver_died_early_gets_the_same_parameters(journal: Path) -> None:
    study = open_optuna_study(open_storage(None, journal), "study", "tpe", seed=1)
    ask_known_good_first(study, "dynamic_dropout")
    study.ask()
    trial = study.ask()
    trial.suggest_categorical("kind", ("constant", "linear", "exponential", "val_loss"))  # and here its driver died
    searcher, _ = make(journal)
    configs = [searcher.suggest(f"t{i}") for i in range(5)]
    assert [c["number"] for c in configs] == [0, 1, 2, 3, 4]
    assert configs[1]["spec"].regularizer == {"schedule": {"kind": "constant", "rate": 0.2}}
    assert len(states(journal)) == 5


def test_when_it_is_over_no_trial_is_given(journal: Path) -> None:
    searcher, _ = make(journal)
    config = searcher.suggest("t0")
    searcher.is_over = lambda: True
    assert searcher.suggest("t1") == Searcher.FINISHED
    searcher.on_trial_complete("t0", result(100))
    assert isinstance(config, dict)
    assert states(journal)[:2] == [TrialState.COMPLETE, TrialState.WAITING]


def test_a_trial_that_tune_lost_is_given_again_and_the_search_ends_when_all_have(journal: Path) -> None:
    searcher, _ = make(journal, trials=2)
    configs = [searcher.suggest(f"t{i}") for i in range(2)]
    searcher.on_trial_result("t0", result(20))
    assert searcher.suggest("t2") is None, "two have begun, and none has ended"
    searcher.on_trial_lost("t0")
    assert searcher.suggest("u0") == configs[0]
    searcher.on_trial_complete("u0", result(100))
    assert searcher.suggest("t3") is None
    searcher.on_trial_complete("t1", result(100))
    assert searcher.suggest("t4") == Searcher.FINISHED
    assert states(journal)[:2] == [TrialState.COMPLETE] * 2


def test_no_trial_begins_without_room_or_before_the_storage_knows_its_number(journal: Path) -> None:
    class Kept:
        asked, known = 0, 0

        def ask(self) -> int:
            self.asked += 1
            return self.asked

        def has(self, asked: int) -> bool:
            return self.known >= asked

    study = open_optuna_study(open_storage(None, journal), "study", "tpe", seed=1)
    room, kept = 1, Kept()
    source = OptunaRuns(study, "dynamic_dropout", TRAINING, uploads=kept)  # type: ignore[arg-type]
    searcher = RunSearcher(source, [], lambda running: running < room)
    assert searcher.suggest("t0") is None
    assert searcher.suggest("t0") is None
    assert kept.asked == 1, "one trial was asked for, and it waits"
    kept.known = 1
    config = searcher.suggest("t0")
    assert isinstance(config, dict)
    assert config["number"] == 0
    assert searcher.suggest("t1") is None
    assert kept.asked == 1, "there is no room for another"
    room = 2
    searcher.suggest("t1")
    assert kept.asked == 2


def test_listed_runs_are_given_in_order_and_a_lost_one_first() -> None:
    specs = [
        RunSpec(key=f"run-{i}", title="", name="", regularizer={}, training=TRAINING, place=Path(str(i)))
        for i in range(3)
    ]
    notes = Notes()
    searcher = RunSearcher(ListedRuns(specs), [notes])
    assert [searcher.suggest(f"t{i}")["spec"] for i in range(2)] == specs[:2]
    searcher.on_trial_result("t0", result(50))
    searcher.on_trial_lost("t0")
    assert searcher.suggest("u0")["spec"] == specs[0]
    assert searcher.suggest("t2")["spec"] == specs[2]
    assert searcher.suggest("t3") is None, "some have no end yet"
    searcher.on_trial_complete("u0", result(100))
    searcher.on_trial_complete("t1", result(100))
    searcher.on_trial_complete("t2", {"failed": "diverged: val_loss is nan at step 50"})
    assert searcher.suggest("t3") == Searcher.FINISHED
    assert notes.ended == {"run-0": "completed", "run-1": "completed", "run-2": "failed"}


def test_of_many_trials_the_sampler_sees_the_newest_and_the_best() -> None:
    study = optuna.create_study(sampler=make_sampler("tpe", 1))
    for number in range(400):
        rate = number / 400
        study.add_trial(
            create_trial(value=rate, params={"rate": rate}, distributions={"rate": FloatDistribution(0.0, 1.0)})
        )
    running = study.ask()
    shown = {trial.number for trial in _shown(study)._get_trials(states=None)}
    assert shown == {*range(BEST_TRIALS), *range(400 - MOST_TRIALS, 400), running.number}
    assert 0 <= running.suggest_float("rate", 0.0, 1.0) < 0.3, "and learns from them"
