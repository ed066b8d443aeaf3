"""The adapter between Optuna and Tune: what is asked, in which order, and how each end is told."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from model.regularizer import Regularizer
from model.schedules import from_dict
from search_spaces import KNOWN_GOOD, SPACES
from study.base.names import Key, Outcome
from study.engine.early_stopping import InOrder, SparingASHA
from study.engine.equal_shares import EqualShares, group_of
from study.engine.optuna_runs import OptunaRuns, ask_known_good_first, open_optuna_study
from study.engine.run_source import Ending, ListedRuns
from study.engine.run_spec import RunSpec
from study.engine.sampler import BEST_TRIALS, MOST_TRIALS, _shown, make_sampler
from study.engine.searcher import RunSearcher
from study.records.optuna_study import finished, open_storage
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
    numbers = {"dynamic_dropout": 4, "constant": 1, "controls": 2, "curriculum": 3, "structured": 2, "families": 2}
    assert len(kinds) == numbers[space]


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


def asha_stops(
    asha: SparingASHA,
    name: str,
    step: int,
    loss: float,
    protected: bool = False,
    number: int | None = None,
    group: str = "",
) -> bool:
    config = {"protected": protected, "number": name if number is None else number, "group": group}
    trial: Any = SimpleNamespace(trial_id=name, config=config)
    if name not in asha._trial_info:
        asha.on_trial_add(SimpleNamespace(), trial)
    return bool(asha.on_trial_result(SimpleNamespace(), trial, result(step, loss)) == TrialScheduler.STOP)


def test_asha_stops_the_bad_but_spares_the_known_good() -> None:
    asha = SparingASHA(steps=100, grace_steps=20)
    assert not asha_stops(asha, "good", 20, 1.0)
    assert not asha_stops(asha, "bad", 10, 9.0), "before the grace period is over, nothing stops"
    assert asha_stops(asha, "bad", 20, 9.0)
    assert not asha_stops(asha, "known", 20, 9.0, protected=True)


def test_asha_remembers_earlier_trials(journal: Path) -> None:
    searcher, _ = make(journal)
    searcher.suggest("t0")
    searcher.on_trial_result("t0", result(20, 1.0))
    searcher.on_trial_complete("t0", result(100, 1.0))
    study = open_optuna_study(open_storage(None, journal), "study", "tpe", seed=1)
    assert len(finished(study)) == 1
    fresh, knowing = SparingASHA(100, 20), SparingASHA(100, 20)
    knowing.remember(study)
    assert not asha_stops(fresh, "bad", 20, 9.0)
    assert asha_stops(knowing, "bad", 20, 9.0)


def test_asha_compares_trials_of_a_group_only(journal: Path) -> None:
    asha = SparingASHA(steps=100, grace_steps=20)
    assert not asha_stops(asha, "good", 20, 1.0, group="mix")
    assert not asha_stops(asha, "slow", 20, 9.0, group="path"), "the first of its group"
    assert asha_stops(asha, "slower", 20, 9.5, group="path")
    assert asha_stops(asha, "bad", 20, 1.5, group="mix")
    assert not asha_stops(asha, "plain", 20, 5.0), "a study without groups has one"


def test_asha_remembers_the_groups_of_earlier_trials(journal: Path) -> None:
    study = open_optuna_study(open_storage(None, journal), "study", "tpe", seed=1)
    ask_known_good_first(study, "curriculum")
    source = OptunaRuns(study, "curriculum", TRAINING)
    searcher = RunSearcher(source, [Notes()])
    groups = [searcher.suggest(f"t{i}")["group"] for i in range(4)]
    assert groups == ["curriculum", "anti_curriculum", "switch", "constant"]
    for i, loss in enumerate((1.0, 2.0, 3.0)):
        searcher.on_trial_result(f"t{i}", result(20, loss))
        searcher.on_trial_complete(f"t{i}", result(100, loss))
    asha = SparingASHA(100, 20)
    shares = EqualShares.of_space("curriculum")
    asha.remember(
        open_optuna_study(open_storage(None, journal), "study", "tpe", seed=1),
        lambda trial: group_of(shares, trial.params),
    )
    assert [asha_stops(asha, f"u-{group}", 20, 2.5, group=group) for group in groups] == [True, True, False, False]


def test_asha_judges_a_resumed_trial_by_the_loss_that_it_had_at_its_rung(journal: Path) -> None:
    searcher, _ = make(journal)
    for i in range(2):
        searcher.suggest(f"t{i}")
    searcher.on_trial_result("t0", result(20, 2.0))
    searcher.on_trial_complete("t0", result(100, 1.0))
    searcher.on_trial_result("t1", result(20, 2.5))
    searcher.on_trial_result("t1", result(40, 1.5))  # and here its driver died
    asha = SparingASHA(100, 20)
    asha.remember(open_optuna_study(open_storage(None, journal), "study", "tpe", seed=1))
    assert not asha_stops(asha, "resumed", 40, 1.5, number=1)  # it passed rung 20 then, at 2.5
    assert asha_stops(asha, "new", 20, 2.4), "the rung's better third is 2.17 and below, not 1.7"


def test_when_it_is_over_no_trial_is_given(journal: Path) -> None:
    searcher, _ = make(journal)
    config = searcher.suggest("t0")
    searcher.is_over = lambda: True
    assert searcher.suggest("t1") == Searcher.FINISHED
    searcher.on_trial_complete("t0", result(100))
    assert isinstance(config, dict)
    assert states(journal)[:2] == [TrialState.COMPLETE, TrialState.WAITING]


def test_the_first_trial_that_waits_is_run_whatever_has_ended() -> None:
    trials = [SimpleNamespace(status=status, is_finished=lambda: False) for status in ("RUNNING", "PENDING", "PENDING")]
    looked_at = []

    class Ended:
        status = "TERMINATED"

        def is_finished(self) -> bool:
            looked_at.append(self)
            return True

    for scheduler in (InOrder(), SparingASHA(100, 20)):
        looked_at.clear()
        all_trials = [*(Ended() for _ in range(5)), *trials]
        controller = SimpleNamespace(get_trials=all_trials.copy)
        assert [scheduler.choose_trial_to_run(controller) for _ in range(3)] == [trials[1]] * 3
        assert len(looked_at) == 5, "each that has ended is looked at once"
        trials[1].status = "RUNNING"
        assert scheduler.choose_trial_to_run(controller) is trials[2]
        trials[1].status = "PENDING"


def test_asha_counts_a_trial_that_is_begun_again_once() -> None:
    asha = SparingASHA(100, 20)
    for name, loss in (("a", 2.0), ("b", 1.9), ("lost", 1.8)):
        asha_stops(asha, name, 20, loss, number=ord(name[0]))
    assert not asha_stops(asha, "again", 30, 1.5, number=ord("l")), "it passed rung 20 before"
    (recorded,) = [recorded for milestone, recorded in asha._brackets[0]._rungs if milestone == 20]
    assert recorded == {"a": -2.0, "b": -1.9, "again": -1.8}


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
