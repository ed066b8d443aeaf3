"""The report's pure parts, against references: what is drawn and said of known trials."""

import json
import re
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import spearmanr

from study.base.figure_style import spread
from study.base.names import Outcome
from study.base.ranking import best_first
from study.engine.early_stopping import SparingASHA, rungs
from study.report.curves import arm_curve
from study.report.edges import at_edge, winner_edges
from study.report.parameters import draw_importances, draw_slices, importance
from study.report.rungs import rank_correlation, rungs_at
from study.report.sentences import edge_warning
from study.report.trials import Trial, TrialRecord, best_so_far, make_trials, pareto_front, ranked, unshared

LOSSES = st.floats(1, 5, allow_nan=False)


def trial(
    number: int,
    losses: list[float],
    outcome: Outcome | None = Outcome.COMPLETED,
    *,
    seconds: float = 1.0,
    rate: float = 0.1,
    trials_per_gpu: int = 1,
) -> Trial:
    """A trial evaluated every 10 steps."""
    best = [min(losses[: i + 1]) for i in range(len(losses))]
    return Trial(
        number=number,
        record=TrialRecord(outcome=outcome, trials_per_gpu=trials_per_gpu),
        schedule={"kind": "constant", "rate": rate},
        steps=tuple(range(0, 10 * len(losses), 10)),
        dropout_rates=(rate,) * len(losses),
        val_losses=tuple(losses),
        best_val_losses=tuple(best),
        train_seconds=seconds,
    )


def rows(number: int, losses: list[float], seed: int = 1) -> list[dict[str, Any]]:
    return [
        {
            "trial": number, "seed": seed, "schedule": json.dumps({"kind": "constant", "rate": 0.1}), "step": 10 * i,
            "dropout_rate": 0.1, "val_loss": loss, "best_val_loss": min(losses[: i + 1]), "train_seconds": float(i),
        }
        for i, loss in enumerate(losses)
    ]  # fmt: skip


def test_trials_from_rows_in_any_order() -> None:
    records = {
        0: TrialRecord(outcome=Outcome.COMPLETED),
        1: TrialRecord(outcome=Outcome.FAILED, schedule={"kind": "linear"}, reason="out of memory"),
        2: TrialRecord(outcome=None),  # its driver died before anything was kept
    }
    found = make_trials(reversed(rows(0, [3.0, 1.0, 2.0])), records)
    assert [t.number for t in found] == [0, 1]
    assert found[0].steps == (0, 10, 20)
    assert (found[0].best_val_loss, found[0].best_step, found[0].train_seconds) == (1.0, 10, 2.0)
    assert (found[1].kind, found[1].steps) == ("linear", ())
    assert ranked(found) == [found[0]]


def test_rank_correlation_of_known_samples() -> None:
    assert rank_correlation([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) == pytest.approx(0.8207826816681233)  # with a tie
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None


@given(st.permutations(range(7)))
def test_rank_correlation_is_spearmans_formula(order: list[int]) -> None:
    d2 = sum((i - j) ** 2 for i, j in enumerate(order))
    found = rank_correlation(range(7), order)
    assert found == pytest.approx(1 - 6 * d2 / (7 * 48), abs=1e-12)


@given(st.lists(st.lists(LOSSES, min_size=4, max_size=4), min_size=3, max_size=8))
def test_rungs_compare_the_best_loss_then_with_the_end(losses: list[list[float]]) -> None:
    trials = [trial(i, mine) for i, mine in enumerate(losses)]
    (rung,) = rungs_at([15], trials)  # the first evaluation at or after it is at step 20
    then, end = [min(mine[:3]) for mine in losses], [min(mine) for mine in losses]
    assert rung.completed == rung.reached == len(losses)
    if rung.correlation is not None:
        assert rung.correlation == pytest.approx(spearmanr(then, end).statistic)
    winner = end.index(min(end))
    assert rung.winner_rank == 1 + sum(loss < then[winner] for loss in then)


def test_rungs_count_only_trials_that_reached_the_end() -> None:
    trials = [trial(i, [4.0, 3.0 - i / 10, 2.0 - i / 10]) for i in range(3)]
    trials += [trial(3, [4.0, 3.9], Outcome.STOPPED_EARLY), trial(4, [4.0, 3.5], None), trial(5, [4.0], Outcome.FAILED)]
    (rung,) = rungs_at([10], trials)
    assert (rung.completed, rung.reached, rung.stopped) == (3, 5, 1)
    assert rung.correlation == pytest.approx(1)


@pytest.mark.parametrize(("steps", "grace"), [(1000, 400), (5000, 1000), (300, 100), (60, 20), (1000, 50), (10, 10)])
def test_rungs_are_those_of_asha(steps: int, grace: int) -> None:
    asha = [int(milestone) for milestone, _ in SparingASHA(steps, grace)._brackets[0]._rungs]
    assert rungs(steps, grace) == sorted(milestone for milestone in asha if milestone < steps)


POINTS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12)


@given(POINTS)
def test_pareto_front_by_brute_force(points: list[tuple[int, int]]) -> None:
    trials = [trial(i, [float(loss)], seconds=float(seconds)) for i, (seconds, loss) in enumerate(points)]
    expected = {
        (s, loss)
        for s, loss in points
        if not any((a <= s and b <= loss) and (a, b) != (s, loss) for a, b in points)
    }  # fmt: skip
    front = pareto_front(trials)
    assert {(t.train_seconds, t.best_val_loss) for t in front} == expected
    assert len(front) == len(expected), "one of several equal ones"
    assert all(a.train_seconds < b.train_seconds and a.best_val_loss > b.best_val_loss for a, b in pairwise(front))


def test_trials_that_shared_a_gpu_have_no_time_of_their_own() -> None:
    trials = [trial(0, [2.0]), trial(1, [1.0], trials_per_gpu=2), trial(2, [1.0], Outcome.STOPPED_EARLY)]
    assert [t.number for t in unshared(trials)] == [0]


@given(st.lists(st.tuples(LOSSES, st.sampled_from([Outcome.COMPLETED, Outcome.STOPPED_EARLY, None])), max_size=10))
def test_best_so_far_by_brute_force(ends: list[tuple[float, Outcome | None]]) -> None:
    found = best_so_far([trial(i, [loss], outcome, seconds=i + 1.0) for i, (loss, outcome) in enumerate(ends)])
    for i, best in enumerate(found):
        completed = [loss for loss, outcome in ends[: i + 1] if outcome is Outcome.COMPLETED]
        assert best.best_val_loss == (min(completed) if completed else None)
        assert best.train_seconds == sum(range(1, i + 2))


@pytest.mark.parametrize(
    ("value", "low", "high", "more", "expected"),
    [
        (0.5, 0.0, 0.5, {}, "upper end"),
        (0.48, 0.0, 0.5, {}, "close to the upper end"),
        (0.47, 0.0, 0.5, {}, None),
        (0.0, 0.0, 0.5, {}, "no value lies beyond"),
        (1.1, 1.0, 10.0, {"log": True}, "lower end"),
        (1.4, 1.0, 10.0, {"log": True}, None),
        (4, 1, 4, {"whole": True}, "upper end"),
        (3, 1, 4, {"whole": True}, None),
        (1, 1, 1, {"whole": True}, None),
    ],
)
def test_edges(value: float, low: float, high: float, more: dict[str, bool], expected: str | None) -> None:
    edge = at_edge("rate", value, low, high, **{"log": False, "whole": False} | more)
    assert (edge is None) == (expected is None)
    if edge is not None and expected is not None:
        assert expected in edge_warning(edge)


def optuna_study(n: int) -> optuna.Study:
    study = optuna.create_study(direction="minimize")
    kinds = {
        "kind": CategoricalDistribution(("a", "b")),
        "rate": FloatDistribution(0, 0.5),
        "patience": IntDistribution(1, 4),
    }
    for i in range(n):
        params = {"kind": "ab"[i % 2], "rate": 0.5 - i / 100, "patience": 1 + i % 3}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=2.0 + i))
    return study


def test_the_winners_edges_are_read_from_optuna() -> None:
    assert [(edge.name, edge.value, edge.natural) for edge in winner_edges(optuna_study(3))] == [
        ("rate", 0.5, False),
        ("patience", 1, True),
    ]
    assert winner_edges(optuna_study(0)) == []


def test_importance_is_optunas_own() -> None:
    study = optuna_study(20)
    found = importance(study)
    assert found is not None
    assert found.shares == pytest.approx(optuna.importance.get_param_importances(study))
    assert (found.completed, found.top) == (20, 2)
    assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)
    assert importance(optuna_study(3)) is None


def test_each_parameter_is_drawn_over_its_whole_range() -> None:
    study = optuna_study(20)
    found = importance(study)
    assert found is not None
    slices = {drawing.name: drawing.wide for drawing in draw_slices(study, found)}
    assert list(slices) == [f"slice-{name}" for name in found.shares]
    texts = {name: re.findall(r"<text[^>]*>([^<]*)</text>", svg) for name, svg in slices.items()}
    assert {"a", "b", "kind", "best_val_loss"} <= set(texts["slice-kind"])
    assert {"1", "2", "3", "4", "patience"} <= set(texts["slice-patience"]), "the study has tried 1 to 3 only"
    assert slices["slice-rate"].count("<use") >= 20, "a point for each trial"
    drawing = draw_importances(found)
    assert re.findall(r">(\d\.\d\d|&lt;0\.01)</text>", drawing.wide) == [
        f"{share:.2f}" if share >= 0.01 else "&lt;0.01" for share in found.shares.values()
    ]


@given(st.lists(st.tuples(st.sampled_from([1.0, 2.0]), st.integers(0, 9)), unique_by=lambda item: item[1]))
def test_of_equal_losses_the_earlier_trial_comes_first(trials: list[tuple[float, int]]) -> None:
    found = best_first(trials, loss=lambda item: item[0], number=lambda item: item[1])
    assert found == sorted(trials)


@given(st.lists(st.lists(LOSSES, min_size=3, max_size=5), min_size=1, max_size=4))
def test_an_arms_curve_is_mean_and_deviation_over_its_seeds(seeds: list[list[float]]) -> None:
    curve = arm_curve("arm", [row for seed, losses in enumerate(seeds) for row in rows(0, losses, seed)])
    shared = min(len(losses) for losses in seeds)
    assert curve.steps == tuple(range(0, 10 * shared, 10))
    for i in range(shared):
        at = [losses[i] for losses in seeds]
        assert curve.val_losses[i] == pytest.approx(fmean(at))
        assert curve.deviations[i] == pytest.approx(stdev(at) if len(at) > 1 else 0)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=8))
def test_labels_are_moved_apart_and_keep_their_order(values: list[float]) -> None:
    values = sorted(values)
    placed = spread(values, 1.0, -2.0, 12.0)
    assert all(b - a >= 1 - 1e-9 for a, b in pairwise(placed))
    assert -2 - 1e-9 <= placed[0]
    assert placed[-1] <= 12 + 1e-9
    if all(b - a >= 1 for a, b in pairwise(values)):
        assert placed == pytest.approx(values)
