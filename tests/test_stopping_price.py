"""The price of early stopping: simulated searches, beside Ray Tune's own ASHA."""

from types import SimpleNamespace

import numpy as np
import pytest

from study.base.names import Outcome
from study.engine.early_stopping import SparingASHA, rungs
from study.report.sentences import stopping_price
from study.report.stopping_price import simulate_asha, stopping_prices, thinned
from study.report.trials import Trial, TrialRecord

STEPS = 90


def trials(losses: np.ndarray, known_good: int = 0) -> list[Trial]:
    """Trials (n, evaluations) with an evaluation every 10 steps; the first few are protected."""
    return [
        Trial(
            number=number,
            record=TrialRecord(outcome=Outcome.COMPLETED, known_good="name" if number < known_good else None),
            schedule={"kind": "constant", "rate": 0.1},
            steps=tuple(range(0, 10 * len(mine), 10)),
            dropout_rates=(0.1,) * len(mine),
            val_losses=tuple(mine),
            best_val_losses=tuple(np.minimum.accumulate(mine)),
            train_seconds=1.0,
        )
        for number, mine in enumerate(losses.tolist())
    ]


def asha(sample: list[Trial], grace_steps: int, in_turn: bool) -> list[int]:
    """The steps that Tune's ASHA lets trials reach, one after the other or all side by side."""
    bracket = SparingASHA(STEPS, grace_steps)._brackets[0]
    reached = [0] * len(sample)

    def report(i: int, step: int) -> None:
        trial = sample[i]
        if reached[i] == (step - 10 if step > 10 else 0):
            reached[i] = step
            twin = SimpleNamespace(trial_id=str(i))
            action = bracket.on_result(twin, step, -trial.best_val_losses[step // 10])
            if action == "STOP" and trial.record.known_good is None:
                reached[i] = -step

    pairs = [(i, step) for step in range(10, STEPS, 10) for i in range(len(sample))]
    for i, step in sorted(pairs) if in_turn else pairs:
        report(i, step)
    return [-step if step < 0 else STEPS for step in reached]


@pytest.mark.parametrize("in_turn", [True, False])
@pytest.mark.parametrize("known_good", [0, 3])
@pytest.mark.parametrize("grace_steps", [10, 20, 40])
def test_simulated_trials_stop_where_tune_stops_them(grace_steps: int, known_good: int, in_turn: bool) -> None:
    generator = np.random.default_rng(grace_steps)
    for _ in range(20):
        sample = trials(generator.normal(2, 0.1, (17, 10)), known_good)
        assert simulate_asha(sample, rungs(STEPS, grace_steps), STEPS) == asha(sample, grace_steps, in_turn)


def test_early_losses_that_tell_all_cost_nothing_and_those_that_mislead_cost_the_best() -> None:
    ends = np.linspace(2, 3, 12)[:, None]
    told = stopping_prices(trials(np.repeat(ends, 10, axis=1)), STEPS)
    assert [price.grace_steps for price in told] == list(range(10, STEPS, 10))
    assert all(price.kept == 1 and price.regret == 0 for price in told)
    assert told[0].cost < 0.7 < told[-1].cost < 1
    misled = stopping_prices(trials(np.hstack([np.repeat(6 - ends, 9, axis=1), ends])), STEPS)
    assert misled[0].kept < 0.3
    assert misled[0].regret > 0.1
    assert stopping_prices(trials(np.repeat(ends[:7], 10, axis=1)), STEPS) == []
    assert [price.grace_steps for price in thinned(told, 20, most=3)] == [10, 20, 40, 70]
    assert "From a grace period of 10 steps on, the best trial was kept in at least 90%." in stopping_price(told, 10)
    assert "From a grace period of 30 steps on" in stopping_price([told[0], misled[1], *told[2:]], 10)
    assert "train without early stopping" in stopping_price(misled[:1], 10)


def test_trials_are_compared_within_their_group() -> None:
    sample = trials(np.random.default_rng(5).normal(2, 0.1, (20, 10)))
    apart = simulate_asha(sample, [10, 30], STEPS, lambda trial: str(trial.number % 2))
    for half in (0, 1):
        assert apart[half::2] == simulate_asha(sample[half::2], [10, 30], STEPS)
    assert apart != simulate_asha(sample, [10, 30], STEPS)
