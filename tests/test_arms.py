"""The arms of a confirmation, from made-up trials."""

import json
import math
from dataclasses import replace

import pytest

from model.schedules import Constant, Exponential, Linear, Piecewise, Reversed, ValLoss
from study.confirm.arms import (
    BASELINE,
    CompletedTrial,
    arms,
    best_of_study,
    canonical,
    is_constant,
    mean_rate,
    most_arms,
    open_loop,
)

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
