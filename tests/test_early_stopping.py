"""ASHA, which stops the bad trials early and spares the known good ones."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from study.engine.early_stopping import InOrder, SparingASHA
from study.engine.equal_shares import EqualShares, group_of
from study.engine.optuna_runs import OptunaRuns, ask_known_good_first, open_optuna_study
from study.engine.searcher import RunSearcher
from study.records.optuna_study import finished, open_storage
from tests.test_searcher import TRAINING, Notes, make, result


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "optuna.journal"


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
