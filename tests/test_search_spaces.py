"""The spaces of families: what the papers' configurations are, and that each value gets its share of the trials."""

import math
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from model.regularizer import Regularizer
from search_spaces import EQUAL_SHARES, KNOWN_GOOD, SPACES
from study.base.names import Outcome
from study.base.regularizers import as_regularizer, family_kind
from study.engine.equal_shares import LEAST_EACH, EqualShares, group_of
from study.engine.optuna_runs import OptunaRuns, ask_known_good_first, open_optuna_study
from study.engine.run_source import Ending
from study.engine.run_spec import RunSpec
from study.records.optuna_study import open_storage
from study.training.config import PRESETS

TRAINING = PRESETS["smoke"].training


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "optuna.journal"


def session(journal: Path, space: str) -> tuple[optuna.Study, OptunaRuns]:
    """Begins a session of a study, anew or again, as `study.search` does."""
    study = open_optuna_study(open_storage(None, journal), "study", "tpe", seed=1)
    ask_known_good_first(study, space)
    return study, OptunaRuns(study, space, TRAINING)


def asked(runs: OptunaRuns) -> RunSpec:
    spec = runs.next()
    assert isinstance(spec, RunSpec)
    return spec


def shares(journal: Path, space: str) -> Counter[str | None]:
    found = EqualShares.of_space(space)
    assert found is not None
    study = optuna.load_study(study_name="study", storage=open_storage(None, journal))
    begun = (trial for trial in study.trials if trial.state is not TrialState.WAITING)
    return Counter(trial.params.get(found.parameter) for trial in begun)


def first_known_good(space: str) -> list[Regularizer]:
    study = optuna.create_study()
    for parameters in KNOWN_GOOD[space].values():
        study.enqueue_trial(parameters)
    return [Regularizer.from_dict(SPACES[space](study.ask())) for _ in KNOWN_GOOD[space]]


def regularizer(schedule: dict, family: dict | None = None, depth: dict | None = None) -> Regularizer:
    more = {"family": family, "depth": depth}
    return Regularizer.from_dict({"schedule": schedule} | {name: d for name, d in more.items() if d is not None})


def constant(rate: float) -> dict:
    return {"kind": "constant", "rate": rate}


def rising(rate: float) -> dict:
    return {"kind": "linear", "initial_rate": 0.0, "final_rate": rate}


PAPERS = {
    "families": [
        regularizer(constant(0.2)),
        regularizer(constant(0.2), {"kind": "standout", "alpha": 0.5, "calibrated": False, "elsewhere": "none"}),
        regularizer(rising(0.1), {"kind": "dropblock", "block": 4, "elsewhere": "none"}),
        regularizer(rising(0.1), {"kind": "batchdropblock", "block": 4, "elsewhere": "none"}),
        regularizer(rising(0.1), {"kind": "probdropblock", "block": 4, "elsewhere": "none"}),
        regularizer(
            constant(0.33), {"kind": "mix", "drop": 0.5, "elsewhere": "none"}, {"kind": "annealed", "until": 0.68}
        ),
        regularizer(constant(0.25), {"kind": "path"}, {"kind": "rising"}),
    ],
    "structured": [
        regularizer(rising(0.1), {"kind": "standard", "sites": ["attention_output", "mlp_output"]}),
        *(
            regularizer(rising(0.1), {"kind": kind, "block": 4, "elsewhere": "none"})
            for kind in ("dropblock", "batchdropblock", "probdropblock")
        ),
    ],
    "curriculum": [
        regularizer({"kind": "exponential", "initial_rate": 0.0, "final_rate": 0.2, "decay": 10.0}),
        regularizer({"kind": "exponential", "initial_rate": 0.2, "final_rate": 0.0, "decay": 10.0}),
        regularizer({"kind": "late", "peak_rate": 0.2, "cutoff": 0.1}),
        regularizer(constant(0.2)),
    ],
    "sentences": [
        regularizer(constant(0.1)),
        regularizer({"kind": "exponential", "initial_rate": 0.0, "final_rate": 0.1, "decay": 10.0}),
        regularizer(constant(0.1), {"kind": "standout", "alpha": 1.0, "learned": True, "elsewhere": "standard"}),
    ],
}


@pytest.mark.parametrize("space", PAPERS)
def test_the_papers_configurations_come_first_one_of_each_value(space: str) -> None:
    values = EQUAL_SHARES[space][1]
    found = first_known_good(space)
    assert found[: len(values)] == PAPERS[space]
    parameter = EQUAL_SHARES[space][0]
    assert [known[parameter] for known in KNOWN_GOOD[space].values()] == list(values) * 2


@pytest.mark.parametrize("space", EQUAL_SHARES)
def test_each_value_gets_its_share_over_sessions_and_failures(space: str, journal: Path) -> None:
    """Every third trial fails, every fifth session dies before a trial ends, and the losses favour one value."""
    values = EQUAL_SHARES[space][1]
    rounds = 5
    given = 0
    while given < rounds * len(values):
        _, runs = session(journal, space)
        for place in range(4):
            spec = asked(runs)
            given += spec.key == given  # one that was broken off before keeps its number
            count = shares(journal, space)
            assert max(count.values()) - min(count[value] for value in values) <= 1
            assert spec.group in values
            if given == rounds * len(values):
                break
            if place == 3 and given % 5 == 0:
                continue  # its driver dies, and the next session goes on with it
            value = 1.0 + values.index(spec.group)
            if given % 3 == 0:
                runs.ended(spec.key, Ending(outcome=Outcome.FAILED, reason="diverged", diverged=True))
            else:
                runs.progressed(spec.key, {"best_val_loss": value, "step": 10})
                runs.ended(spec.key, Ending(outcome=Outcome.COMPLETED, value=value))
    assert shares(journal, space) == dict.fromkeys(values, rounds)


@pytest.mark.parametrize("dies", ["before the trial is asked for", "before its parameters are suggested"])
def test_a_value_whose_driver_died_is_not_asked_for_twice(dies: str, journal: Path) -> None:
    space, values = "curriculum", EQUAL_SHARES["curriculum"][1]
    study, runs = session(journal, space)
    for _ in KNOWN_GOOD[space]:
        runs.ended(asked(runs).key, Ending(outcome=Outcome.COMPLETED, value=1.0))
    found = EqualShares.of_space(space)
    assert found is not None
    found.enqueue_next(study)
    if dies == "before its parameters are suggested":
        study.ask()
    _, runs = session(journal, space)
    assert [asked(runs).group for _ in values] == list(values)
    assert shares(journal, space) == dict.fromkeys(values, 3)


def test_a_trial_whose_driver_died_between_its_parts_keeps_its_family(journal: Path) -> None:
    """The schedule is written last: with it, all parts are there."""
    study, runs = session(journal, "families")
    for _ in range(2):
        asked(runs)
    assert list(study.trials[1].user_attrs) == ["known_good", "family", "schedule"]
    trial = study.ask()
    suggested = as_regularizer(SPACES["families"](trial))
    trial.set_user_attr("family", suggested["family"])  # and here its driver died
    _, runs = session(journal, "families")
    assert [asked(runs).key for _ in range(3)] == [0, 1, 2]
    again = optuna.load_study(study_name="study", storage=open_storage(None, journal)).trials[2]
    assert again.user_attrs["family"] == suggested["family"]
    assert again.user_attrs["schedule"] == suggested["schedule"]


def test_runs_carry_the_regularizer_and_its_params(journal: Path) -> None:
    _, runs = session(journal, "families")
    specs = [asked(runs) for _ in EQUAL_SHARES["families"][1]]
    assert [family_kind(spec.regularizer) for spec in specs] == [spec.group for spec in specs]
    assert [Regularizer.from_dict(spec.regularizer) for spec in specs] == PAPERS["families"]
    plain, mixed = specs[0].params(), specs[5].params()
    assert not [name for name in plain if name.startswith(("family.", "depth."))]
    assert {name: value for name, value in mixed.items() if not name.startswith("training.")} == {
        "schedule.kind": "constant", "schedule.rate": 0.33, "family.kind": "mix", "family.drop": 0.5,
        "family.over_time": True, "family.elsewhere": "none", "depth.kind": "annealed", "depth.until": 0.68,
    }  # fmt: skip
    assert (specs[0].name, specs[5].name) == ("trial-0-constant", "trial-5-mix")


def test_no_schedule_for_sentences_ends_without_dropout() -> None:
    """Nor has any less than 0.09 at two fifths of the training, where the task's presets begin with two views."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    found = [Regularizer.from_dict(SPACES["sentences"](study.ask())) for _ in range(300)]
    assert min(regularizer.rate(1.0) for regularizer in found) == pytest.approx(0.1, abs=0.005)
    assert max(regularizer.rate(1.0) for regularizer in found) == pytest.approx(0.5, abs=0.005)
    assert min(regularizer.rate(0.4) for regularizer in found) >= 0.09
    falls = [regularizer.rate(1.0) < regularizer.rate(0.4) for regularizer in found]
    assert 0 < sum(falls) < len(falls)


def test_other_spaces_are_asked_as_before(journal: Path) -> None:
    """The same seed gives the trials of an Optuna study that is asked directly, without a share of anything."""
    study, runs = session(journal, "dynamic_dropout")
    reference = open_optuna_study(optuna.storages.InMemoryStorage(), "study", "tpe", seed=1)
    ask_known_good_first(reference, "dynamic_dropout")
    for _ in range(12):
        spec, trial = asked(runs), reference.ask()
        assert spec.regularizer == {"schedule": SPACES["dynamic_dropout"](trial)}
        assert spec.group == ""
        value = math.sin(trial.number)
        runs.ended(spec.key, Ending(outcome=Outcome.COMPLETED, value=value))
        reference.tell(trial, value)
    assert len(study.trials) == 12, "nothing was enqueued beside the known good ones"


def test_a_study_of_families_is_long_enough_for_each() -> None:
    found = EqualShares.of_space("families")
    assert found is not None
    assert [found.trials(PRESETS[name].trials) for name in ("smoke", "laptop", "shakespeare_char")] == [28, 28, 70]
    assert LEAST_EACH > len(KNOWN_GOOD["families"]) / len(found.values), "the sampler is to choose some too"
    assert EqualShares.of_space("dynamic_dropout") is None
    assert group_of(None, {"family": "mix"}) == ""
