"""The parts of a report on families, against references: results, rate over depth, what mattered within a family."""

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from model.depth import Annealed
from model.regularizer import Regularizer
from search_spaces.families import FAMILIES
from study.base.figure_style import both_widths, standalone
from study.base.names import Outcome
from study.report.depth_map import draw_depths, rates_over_depth
from study.report.families import best_of_depths, family_results, importance_within
from study.report.parameters import importance
from study.report.sentences import trial_in_words, unconfirmed, within_families
from study.report.trials import Trial, TrialRecord, make_trials

LINEAR = {"kind": "linear", "initial_rate": 0.3, "final_rate": 0.0}
DROPBLOCK = {"kind": "dropblock", "block": 4, "elsewhere": "none"}
OUTPUTS = {"kind": "standard", "sites": ["attention_output", "mlp_output"]}


def trial(number: int, loss: float, outcome: Outcome = Outcome.COMPLETED, **parts: dict[str, Any]) -> Trial:
    return Trial(
        number=number, record=TrialRecord(outcome=outcome), steps=(0, 50, 100), dropout_rates=(0.1, 0.3, 0.2),
        val_losses=(3.0, loss, loss), best_val_losses=(3.0, loss, loss), train_seconds=1.0,
        **({"schedule": LINEAR} | parts),
    )  # fmt: skip


def test_a_familys_control_is_the_best_standard_trial_at_its_sites() -> None:
    trials = [
        trial(0, 2.5),  # at nanoGPT's sites
        trial(1, 2.4, family=OUTPUTS),
        trial(2, 2.45, family=OUTPUTS),
        trial(3, 1.0, Outcome.STOPPED_EARLY, family=OUTPUTS),
        trial(4, 2.3, family=DROPBLOCK),
        trial(5, 2.6, family=DROPBLOCK | {"elsewhere": "standard"}),
        trial(6, 2.7, family={"kind": "mix", "drop": 0.5, "elsewhere": "none"}),
        trial(7, 2.8, Outcome.STOPPED_EARLY, family={"kind": "path"}),
    ]
    found = {result.kind: result for result in family_results(trials)}
    assert list(found) == ["dropblock", "standard", "mix", "path"], "best first; last that with no completed trial"
    assert (found["dropblock"].trials, found["dropblock"].completed) == (2, 2)
    assert [found[kind].best and found[kind].best.number for kind in found] == [4, 1, 6, None]
    assert found["dropblock"].control == trials[1]
    assert [found[kind].control for kind in ("standard", "mix", "path")] == [None, None, None]
    assert (found["path"].trials, found["path"].completed) == (1, 0)
    assert family_results(trials[:4]) == [], "a study of one family has nothing to compare"


def test_trials_name_their_family_and_an_earlier_versions_rows_have_none() -> None:
    rows = [
        {"trial": 0, "schedule": '{"kind": "constant", "rate": 0.1}', "step": 0, "dropout_rate": 0.1, "val_loss": 2.0,
         "best_val_loss": 2.0, "train_seconds": 0.0},
        {"trial": 1, "schedule": '{"kind": "constant", "rate": 0.1}', "step": 0, "dropout_rate": 0.1, "val_loss": 1.5,
         "best_val_loss": 1.5, "train_seconds": 0.0, "family": '{"kind": "path"}', "depth": '{"kind": "rising"}'},
    ]  # fmt: skip
    records = {n: TrialRecord(outcome=Outcome.COMPLETED) for n in range(2)}
    records[2] = TrialRecord(outcome=Outcome.FAILED, schedule=LINEAR, family=DROPBLOCK, reason="out of memory")
    found = make_trials(rows, records)
    assert [t.is_plain for t in found] == [True, False, False]
    assert found[1].regularizer == {
        "schedule": {"kind": "constant", "rate": 0.1}, "family": {"kind": "path"}, "depth": {"kind": "rising"},
    }  # fmt: skip
    assert trial_in_words(found[1]).startswith("trial 1: constant 0.1, path, rising over depth, ")
    assert trial_in_words(found[2]).startswith("trial 2: linear 0.3 to 0, dropblock 4 alone, failed")
    sentence, worth = unconfirmed(found, {})
    assert "a constant schedule of path is the best of 2 completed trials" in sentence
    assert "The best constant rate of standard dropout here, 0.1 (trial 0), reached 2.0000: 0.5000 more" in worth


@pytest.mark.parametrize("depth", [{"kind": "rising"}, {"kind": "falling"}, {"kind": "annealed", "until": 0.5}])
def test_the_map_shows_the_rates_that_training_uses(depth: dict[str, Any]) -> None:
    found = rates_over_depth(trial(0, 2.0, depth=depth), n_layer=4, steps=100, columns=10)
    regularizer = Regularizer.from_dict({"schedule": LINEAR, "depth": depth})
    assert found.shape == (4, 10)
    for column, progress in enumerate(np.arange(0.05, 1, 0.1)):
        assert found[:, column] == pytest.approx(regularizer.rates(progress, 4))
    if isinstance(regularizer.depth, Annealed):
        assert [int(np.count_nonzero(row)) for row in found] == [1, 2, 4, 5], "off at 0.125, 0.25, 0.375 and 0.5"


def test_a_val_loss_schedule_is_shown_as_it_was() -> None:
    val_loss = {
        "kind": "val_loss", "initial_rate": 0.1, "final_rate": 0.4, "factor": 0.5, "patience": 1, "min_delta": 0.0,
    }  # fmt: skip
    found = rates_over_depth(trial(0, 2.0, schedule=val_loss, depth={"kind": "rising"}), 2, 100, columns=4)
    assert found == pytest.approx(np.array([[0.1, 0.1, 0.3, 0.3], [0.1, 0.1, 0.3, 0.3]]) * [[2 / 3], [4 / 3]])


def test_the_map_has_a_panel_for_the_best_of_each_depth() -> None:
    trials = [
        trial(0, 2.0),
        trial(1, 2.1, depth={"kind": "rising"}),
        trial(2, 1.9, depth={"kind": "rising"}),
        trial(3, 2.2, depth={"kind": "annealed", "until": 0.5}),
        trial(4, 1.0, Outcome.STOPPED_EARLY, depth={"kind": "falling"}),
    ]
    best = best_of_depths(trials)
    assert [t.number for t in best] == [2, 3]
    drawing = both_widths("depths", "rates", lambda width: draw_depths(best, 12, 100, width))
    texts = [e.text for e in ET.fromstring(standalone(drawing.wide)).iter() if e.tag.endswith("text")]
    assert "trial 2: linear 0.3 to 0, rising over depth" in texts
    assert "trial 3: linear 0.3 to 0, annealed until 0.5" in texts
    assert texts.count("layer") == 2
    largest = 0.3 * (1 - 0.5 / 60) * 24 / 13  # the last of 12 layers, in the middle of the first of 60 parts
    assert f"{largest:.3g}" in texts


def test_what_mattered_within_a_family() -> None:
    """In one family only the rate moves the loss, in the other only the block."""
    study = optuna.create_study()
    for i in range(24):
        family, rate, block = ("dropblock", "probdropblock")[i % 2], (i % 12) / 24, (2, 4, 8)[i % 3]
        study.add_trial(
            create_trial(
                value=rate if family == "dropblock" else block / 10,
                params={"family": family, "rate": rate, "block": block},
                distributions={
                    "family": CategoricalDistribution(FAMILIES),
                    "rate": FloatDistribution(0.0, 0.5),
                    "block": CategoricalDistribution((2, 4, 8)),
                },
            )
        )
    found = importance_within(study, "families")
    assert list(found) == list(FAMILIES)
    assert found["dropblock"] is not None
    assert found["probdropblock"] is not None
    assert next(iter(found["dropblock"].shares)) == "rate"
    assert next(iter(found["probdropblock"].shares)) == "block"
    assert "family" not in found["dropblock"].shares
    assert sum(found["dropblock"].shares.values()) == pytest.approx(1)
    assert found["mix"] is None
    said = dict(within_families(found))
    assert said["dropblock"].startswith("rate ")
    assert said["dropblock"].endswith("of 12 completed trials; a hint only")
    assert said["mix"].startswith("too few completed trials")
    assert importance_within(study, "dynamic_dropout") == {}
    everything = importance(study)
    assert everything is not None
    assert "family" in everything.shares
