"""The looks of --until-decided: their error rates, power and cost by simulation, and one study's looks by name."""

import math

import numpy as np
import pytest

from model.schedules import Constant, Linear
from study.base.errors import UserError
from study.confirm.arms import BASELINE, Arm
from study.confirm.decision import ALPHA, Comparison, Verdict
from study.confirm.look_plan import planned_looks, shares
from study.confirm.look_rule import State
from study.confirm.looks import follow, follow_runs
from study.confirm.power import GAINS, fixed_power, power_at
from study.confirm.simulation import SimulatedStudies, simulate
from study.confirm.statistics import Difference, first_seeds
from study.confirm.wording import after_look, in_words
from tests.test_moderated import ARMS, NOISES, losses_of

PLAN = planned_looks(27)


@pytest.mark.parametrize("most", [3, 4, 5, 9, 27, 28, 100, 1000])
def test_looks_rise_to_the_most_seeds_and_spend_everything_once(most: int) -> None:
    looks = planned_looks(most)
    assert looks[-1] == most
    assert list(looks) == sorted(set(looks))
    assert sum(shares(looks)) == pytest.approx(1)
    assert looks[: min(len(looks) - 1, 6)] == (3, 5, 8, 12, 18, 27)[: min(len(looks) - 1, 6)]


def claims(found: SimulatedStudies) -> float:
    return float(np.isin(found.course.state, (State.BETTER, State.WORSE)).any(1).mean())


@pytest.mark.parametrize("noise", NOISES)
def test_a_difference_is_rarely_claimed_where_there_is_none(noise: str) -> None:
    """In at most 6.5 % of 2,000 studies, whose arms are dropped at six looks."""
    assert claims(simulate(losses_of(NOISES[noise], ARMS, PLAN[-1]), PLAN, ALPHA, 1.0)) <= 0.065


@pytest.mark.parametrize(("arms", "most"), [(2, 8), (4, 5), (9, 5)])
def test_few_arms_and_few_looks_claim_no_more(arms: int, most: int) -> None:
    for name, noise in NOISES.items():
        assert claims(simulate(losses_of(noise, arms, most), planned_looks(most), ALPHA, 1.0)) <= 0.065, name


def test_the_runs_are_at_most_seven_tenths_of_a_fixed_design_of_the_same_power() -> None:
    """On average over gains; each gain needs fewer runs than its fixed design."""
    ratios = []
    for gain in (gain for gain in GAINS if gain >= 1):
        found = power_at(gain, ARMS, PLAN, 1.0)
        fixed = first_seeds(lambda n, gain=gain, found=found: fixed_power(gain, n, ARMS) >= min(found.shown, 0.999))
        assert fixed is not None
        ratios.append(found.mean_runs / (fixed * (1 + ARMS)))
    assert max(ratios) < 0.85
    assert np.mean(ratios) <= 0.7


def test_a_gain_that_matters_is_rarely_excluded() -> None:
    """A gain of exactly the smallest that matters is excluded in at most 2.5 % of studies, by an interval of 95 %."""
    losses = losses_of(NOISES["equal SDs"], ARMS, PLAN[-1])
    losses[:, 1] -= 1.0
    found = simulate(losses, PLAN, ALPHA, 1.0)
    assert (found.course.state[:, 0] == State.EXCLUDED).mean() <= 0.025
    assert (found.course.state[:, 0] == State.BETTER).mean() >= 0.6


ARM_LIST = [
    Arm(name=BASELINE, meaning="", schedule=Constant(0.2)),
    Arm(name="no-dropout", meaning="", schedule=Constant(0.0)),
    *(Arm(name=f"top-{i}", meaning="", schedule=Linear(0.2 + i / 100, 0.0)) for i in range(1, 5)),
]
NAMES = [arm.name for arm in ARM_LIST]
SEEDS = list(range(7, 7 + PLAN[-1]))


def by_seed(losses: np.ndarray) -> dict[str, dict[int, float | None]]:
    return {
        name: {seed: float(x) for seed, x in zip(SEEDS, mine, strict=False) if math.isfinite(x)}
        for name, mine in zip(NAMES, losses, strict=True)
    }


def study(seed: int, *gains: float) -> np.ndarray:
    losses = np.random.default_rng(seed).normal(2.4, 0.01, (len(NAMES), len(SEEDS)))
    losses[1:] -= 0.01 * np.array([*gains, *[0.0] * (len(NAMES) - 1 - len(gains))])[:, None]
    return losses


def test_a_study_is_followed_as_the_simulated_ones_are() -> None:
    """The runs of dropped arms are never read, and fewer looks are the beginning of more."""
    candidates = np.array([False, True, True, True, True])
    stops = set()
    for seed, gains in enumerate([(), (-5.0, 1.0), (-2.0, 2.5), (0.0, -3.0, -3.0, -3.0, -3.0), (3.0,), ()] * 4):
        losses = study(seed, *gains)
        simulated = simulate(losses[None], PLAN, ALPHA, 0.01, candidates)
        found = follow(by_seed(losses), ARM_LIST, BASELINE, SEEDS, PLAN, 0.01, len(PLAN))
        assert [found.last(name).state for name in NAMES[1:]] == [
            State(state).name.lower() for state in simulated.course.state[0]
        ]
        assert found.looks[-1].seeds == simulated.seeds[0]
        assert found.p_holm == pytest.approx(dict(zip(NAMES[1:], simulated.course.p_holm[0], strict=True)))
        assert simulated.runs[0] == sum(
            (1 + len(look.arms)) * (look.seeds - before) for before, look in zip([0, *PLAN], found.looks, strict=False)
        )
        for name in NAMES[1:]:
            asked = max(look.seeds for look in found.looks if name in [arm.arm for arm in look.arms])
            losses[NAMES.index(name), asked:] = np.nan
        for taken in range(1, len(found.looks) + 1):
            again = follow(by_seed(losses), ARM_LIST, BASELINE, SEEDS, PLAN, 0.01, taken)
            assert again.looks == found.looks[:taken]
        assert follow_runs(by_seed(losses), ARM_LIST, BASELINE, SEEDS, PLAN, 0.01) == found
        stops.add(found.stopped)
    assert stops == {"shown", "excluded", "seeds"}


def test_the_smallest_gain_is_one_seed_sd_of_the_first_look() -> None:
    losses = study(1)
    first = follow(by_seed(losses), ARM_LIST, BASELINE, SEEDS, PLAN, None, 1)
    later = follow(by_seed(losses), ARM_LIST, BASELINE, SEEDS, PLAN, None, 3)
    assert first.smallest == later.smallest == pytest.approx(0.01, rel=0.5)


def test_a_constant_rate_keeps_no_confirmation_going() -> None:
    losses = study(3, 0.0, -9.0, -9.0, -9.0, -9.0)
    found = follow(by_seed(losses), ARM_LIST, BASELINE, SEEDS, PLAN, 0.001, len(PLAN))
    assert (found.stopped, len(found.looks)) == ("excluded", 1)
    assert "no-dropout" in found.open
    told = after_look(found)
    assert told.startswith("look at 3 seeds; ")
    assert told.endswith(" No arm whose rate changes can gain so much.")


def test_an_arm_that_is_clearly_worse_goes_on_until_that_is_shown() -> None:
    went_on = 0
    for seed in range(8):
        found = follow(by_seed(study(seed, -2.5)), ARM_LIST, BASELINE, SEEDS, PLAN, 0.01, len(PLAN))
        states = [arm for look in found.looks for arm in look.arms if arm.arm == "no-dropout"]
        assert [arm.state for arm in states] == ["open"] * (len(states) - 1) + ["worse"]
        went_on += any(arm.gain_excluded for arm in states[:-1])
    assert went_on >= 2


def test_a_failed_run_leaves_its_arm_the_other_seeds() -> None:
    losses = study(4, 0.0, 4.0)
    losses[2, 1] = np.nan
    losses[3, :3] = np.nan
    found = follow(by_seed(losses), ARM_LIST, BASELINE, SEEDS, PLAN, 0.01, 1)
    at = {arm.arm: arm for arm in found.looks[0].arms}
    assert at["top-1"].p is not None
    assert (at["top-2"].p, at["top-2"].mean, at["top-2"].state) == (None, None, "open")
    assert found.p_holm["top-2"] is None


def test_runs_made_elsewhere_are_judged_as_far_as_they_go() -> None:
    losses = study(5)
    losses[:, 6:] = np.nan
    found = follow_runs(by_seed(losses), ARM_LIST, BASELINE, SEEDS[:6], PLAN, 0.001)
    assert [look.seeds for look in found.looks] == [3, 5]
    assert (found.stopped, found.next_seeds) == (None, 8)
    assert after_look(found).endswith("Next look: 8 seeds.")
    with pytest.raises(UserError, match="begins with 3 seeds of every arm"):
        follow_runs(by_seed(losses[:, :2]), ARM_LIST, BASELINE, SEEDS[:2], PLAN, 0.001)


def test_an_excluded_gain_is_told() -> None:
    verdict = Verdict(
        claim="none",
        baseline=ARM_LIST[0],
        subject=ARM_LIST[2],
        arms=5,
        comparison=Comparison(
            difference=Difference(n=8, mean=0.002, sd=0.01, low=-0.006, high=0.01, p=0.6), p_holm=1.0
        ),
        test=None,
        needed=None,
        excluded=0.0095,
    )
    words = in_words(verdict)
    assert words.headline == (
        "No schedule gains 0.0095 nats or more over the best constant rate (0.2): linear 0.21 to 0, the best of them, "
        "is worse by 0.0020 nats, and such a gain is excluded."
    )
    assert words.figures == "95 % interval -0.0060 to 0.0100; Holm p = 1 over 5 arms; n = 8 seeds."
