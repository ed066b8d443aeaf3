"""The statistics of a confirmation, against published values and simulated studies."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import special

from model.schedules import Constant, Linear, Schedule, ValLoss
from study.confirm.arms import BASELINE, Arm
from study.confirm.decision import ALPHA, Comparison, Verdict, compare, decide
from study.confirm.statistics import Difference, holm, paired_difference, seeds_needed, summary
from study.confirm.wording import in_words

# Student (1908), the extra sleep of ten patients under two drugs: R's data set `sleep`, and what its t.test prints.
DRUG_1 = dict(enumerate([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]))
DRUG_2 = dict(enumerate([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]))


def test_paired_difference_is_students_own() -> None:
    found = paired_difference(DRUG_1, DRUG_2)
    assert found is not None
    assert (found.n, found.mean) == (10, pytest.approx(-1.58))
    assert (found.low, found.high) == (pytest.approx(-2.4598858, abs=1e-7), pytest.approx(-0.7001142, abs=1e-7))
    assert found.p == pytest.approx(0.002833, abs=5e-7)


def test_summary_is_students_own() -> None:
    """R: t.test(extra[group == 2]) gives 0.8976775 to 3.7623225, mean 2.33; sd 2.002249."""
    found = summary(list(DRUG_2.values()))
    assert found is not None
    assert (found.n, found.mean, found.sd) == (10, pytest.approx(2.33), pytest.approx(2.002249, abs=1e-6))
    assert (found.low, found.high) == (pytest.approx(0.8976775, abs=1e-7), pytest.approx(3.7623225, abs=1e-7))


def test_any_sample_agrees_with_the_formula() -> None:
    rng = np.random.default_rng(0)
    for n in range(2, 30):
        a, b = rng.normal(2.4, 0.01, n), rng.normal(2.41, 0.01, n)
        found = paired_difference(dict(enumerate(a)), dict(enumerate(b)))
        assert found is not None
        d, error = a - b, (a - b).std(ddof=1) / math.sqrt(n)
        assert found.p == pytest.approx(2 * special.stdtr(n - 1, -abs(d.mean() / error)), rel=1e-9)
        assert found.high is not None
        assert found.high - found.mean == pytest.approx(special.stdtrit(n - 1, 0.975) * error, rel=1e-9)


def test_holm_is_rs() -> None:
    """R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm"), and with what is no test left out of the count."""
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([None, 0.04, None, 0.01]) == [None, pytest.approx(0.04), None, pytest.approx(0.02)]
    assert holm([None]) == [None]
    assert holm([]) == []


@pytest.mark.parametrize(("effect", "n"), [(1.0, 10), (0.5, 34), (0.2, 199)])
def test_seeds_needed_are_rs(effect: float, n: int) -> None:
    """R: power.t.test(delta = effect, power = 0.8, type = "paired") gives 9.94, 33.4 and 198.2."""
    difference = Difference(n=5, mean=-effect, sd=1.0, low=-9.0, high=9.0, p=0.5)
    assert seeds_needed(difference, alpha=0.05) == n


def test_seeds_needed_has_an_end() -> None:
    tiny = Difference(n=5, mean=1e-9, sd=1.0, low=-9.0, high=9.0, p=1.0)
    assert seeds_needed(tiny, alpha=0.05) is None
    assert seeds_needed(Difference(n=5, mean=0.0, sd=0.0, low=0.0, high=0.0, p=1.0), alpha=0.05) is None


def test_one_seed_has_no_interval() -> None:
    one = summary([2.4])
    assert one is not None
    assert (one.n, one.mean, one.sd, one.low, one.high) == (1, 2.4, None, None, None)
    difference = paired_difference({1: 2.4}, {1: 2.5})
    assert difference is not None
    assert (difference.mean, difference.p) == (pytest.approx(-0.1), None)


def test_what_is_missing_or_not_finite_does_not_count() -> None:
    found = summary([1.0, None, math.nan, 3.0, math.inf])
    assert found is not None
    assert (found.n, found.mean) == (2, 2.0)
    assert summary([None, math.nan]) is None
    difference = paired_difference({1: 1.0, 2: 5.0, 3: math.nan, 4: None, 5: 2.0}, {1: 2.0, 3: 1.0, 4: 1.0, 5: 4.0})
    assert difference is not None
    assert (difference.n, difference.mean) == (2, -1.5)
    assert paired_difference({1: 1.0}, {2: 1.0}) is None


def test_differences_without_variation_are_no_test() -> None:
    same = paired_difference({1: 2.4, 2: 2.5}, {1: 2.4, 2: 2.5})
    assert same is not None
    assert (same.mean, same.p) == (0.0, 1.0)
    shifted = paired_difference({1: 2.4, 2: 2.5, 3: 2.7}, {1: 2.3, 2: 2.4, 3: 2.6})  # but for rounding
    assert shifted is not None
    assert (shifted.p, shifted.low) == (None, None)


ARMS = [
    Arm(name=BASELINE, meaning="", schedule=Constant(0.2)),
    Arm(name="no-dropout", meaning="", schedule=Constant(0.0)),
    Arm(name="mean-constant", meaning="", schedule=Constant(0.1)),
    *(Arm(name=f"linear-{i}", meaning="", schedule=Linear(0.2 + i / 100, 0.0)) for i in range(7)),
]


def verdict(losses: dict[str, np.ndarray]) -> Verdict:
    by_seed = {arm: dict(enumerate(values.tolist())) for arm, values in losses.items()}
    return decide(ARMS, compare(by_seed, BASELINE), BASELINE)


def name(verdict: Verdict) -> str:
    assert verdict.subject is not None
    return verdict.subject.name


@pytest.mark.slow  # 2,000 studies of 9 comparisons
def test_a_difference_is_rarely_claimed_where_there_is_none() -> None:
    """In at most 6.5 % of 2,000 studies; 5 % and two standard deviations of that count are 6.0 %."""
    rng = np.random.default_rng(20261122)
    claims = []
    for _ in range(2000):
        seeds = rng.normal(2.42, 0.01, 5)
        losses = {arm.name: seeds + rng.normal(0, 0.005, 5) for arm in ARMS}
        claims.append(verdict(losses).claim)
    assert set(claims) <= {"better", "worse", "none"}
    assert 1 - claims.count("none") / len(claims) <= 0.065


def test_a_difference_is_claimed_where_there_is_one() -> None:
    rng = np.random.default_rng(1)
    seeds = rng.normal(2.42, 0.01, 5)
    losses = {arm.name: seeds + rng.normal(0, 0.001, 5) for arm in ARMS}
    better = verdict(losses | {"linear-3": losses["linear-3"] - 0.03})
    assert (better.claim, name(better)) == ("better", "linear-3")
    assert "beats the best constant rate (0.2) by 0.03" in in_words(better).sentence
    assert "n = 5 seeds" in in_words(better).sentence
    worse = verdict({name: values + 0.03 * (name != BASELINE) for name, values in losses.items()})
    assert worse.claim == "worse"
    assert in_words(worse).sentence.startswith("No schedule is as good as the best constant rate (0.2): linear")


def test_a_constant_rate_is_never_the_subject_beside_a_schedule() -> None:
    rng = np.random.default_rng(2)
    losses = {arm.name: rng.normal(2.42, 0.001, 5) for arm in ARMS}
    found = verdict(losses | {"mean-constant": losses["mean-constant"] - 0.1})
    assert name(found).startswith("linear")


def test_a_schedule_that_is_shown_to_be_better_comes_before_a_luckier_one() -> None:
    rng = np.random.default_rng(4)
    losses = {arm.name: 2.42 + rng.normal(0, 0.001, 5) for arm in ARMS}
    losses["linear-3"] = losses["linear-3"] - 0.012
    losses["linear-5"] = losses[BASELINE] - 0.0135 + np.array([-0.018, 0.018, -0.015, 0.015, 0.0])
    found = verdict(losses)
    assert min(losses, key=lambda name: losses[name].mean()) == "linear-5"
    assert (found.claim, name(found)) == ("better", "linear-3")


def test_an_arm_that_lacks_seeds_is_never_the_subject() -> None:
    rng = np.random.default_rng(2)
    losses = {arm.name: dict(enumerate(rng.normal(2.42, 0.001, 5))) for arm in ARMS}
    losses["linear-3"] = {0: losses["linear-3"][0] - 0.1}
    found = decide(ARMS, compare(losses, BASELINE), BASELINE)
    assert name(found) != "linear-3"
    assert found.claim == "none"


def test_no_difference_names_the_seeds_that_would_show_it() -> None:
    rng = np.random.default_rng(3)
    losses = {arm.name: rng.normal(2.42, 0.01, 5) for arm in ARMS}
    found = verdict(losses)
    assert found.claim == "none"
    words = in_words(found).sentence
    assert words.startswith("No difference that 5 seeds can show: linear")
    assert f"{found.needed} seeds would be needed to show a difference as large as the one seen" in words


def test_more_seeds_are_needed_for_less() -> None:
    needed = [seeds_needed(Difference(n=5, mean=m, sd=1.0, low=-9.0, high=9.0, p=1.0), ALPHA) for m in (2, 1, 0.5, 0.1)]
    known = [n for n in needed if n is not None]
    assert len(known) == 4
    assert all(a < b for a, b in pairwise(known))


def test_what_cannot_be_judged_is_said_to_be_so() -> None:
    one = verdict({arm.name: np.array([2.42 - i / 1000]) for i, arm in enumerate(ARMS)})
    assert one.claim == "unknown"
    assert "one seed cannot tell" in in_words(one).sentence
    alone = decide(ARMS, compare({BASELINE: {1: 2.4}, "linear-0": {2: 2.4}}, BASELINE), BASELINE)
    assert (alone.claim, alone.subject) == ("unknown", None)
    assert "no other arm has a completed run" in in_words(alone).sentence


STEERED = ValLoss(initial_rate=0.2, final_rate=0.0, factor=0.5, patience=1, min_delta=0.0)
SHOWN = Difference(n=5, mean=-0.02, sd=0.01, low=-0.03, high=-0.01, p=0.001)
NOT_SHOWN = Difference(n=5, mean=0.0081, sd=0.01, low=-0.0085, high=0.0247, p=0.4)
ONE_SEED = Difference(n=1, mean=-0.02, sd=None, low=None, high=None, p=None)
ON_TEST = Difference(n=5, mean=0.004, sd=0.01, low=-0.006, high=0.014, p=0.4)


def decided(
    schedule: Schedule, claim: str, difference: Difference, p_holm: float | None, needed: int | None = None
) -> Verdict:
    return Verdict(
        claim=claim,
        baseline=Arm(name=BASELINE, meaning="", schedule=Constant(0.15)),
        subject=Arm(name="top-1", meaning="", schedule=schedule),
        arms=7,
        comparison=Comparison(difference=difference, p_holm=p_holm),
        test=Comparison(difference=ON_TEST, p_holm=None),
        needed=needed,
    )


def test_a_verdict_is_told_as_a_headline_with_its_figures_apart() -> None:
    words = in_words(decided(Linear(0.2, 0.0), "none", NOT_SHOWN, 0.74, needed=38))
    claim = (
        "No difference that 5 seeds can show: linear 0.2 to 0, the best schedule, is worse by 0.0081 nats than the "
        "best constant rate (0.15)"
    )
    figures = "95 % interval -0.0085 to 0.0247; Holm p = 0.74 over 7 arms; n = 5 seeds"
    needed = "38 seeds would be needed to show a difference as large as the one seen (in 80% of cases)"
    assert words.headline == f"{claim}."
    assert words.figures == f"{figures}; {needed}."
    assert words.sentence == f"{claim} ({figures}); {needed}."
    words = in_words(decided(Linear(0.2, 0.0), "better", SHOWN, 0.007))
    test = "On the test half, which chose nothing, it is worse by 0.0040 (-0.0060 to 0.0140)."
    assert words.headline == f"linear 0.2 to 0 beats the best constant rate (0.15) by 0.0200 nats. {test}"
    assert words.figures == "95 % interval 0.0100 to 0.0300; Holm p = 0.007 over 7 arms; n = 5 seeds."


@pytest.mark.parametrize(
    ("claim", "difference", "p"), [("better", SHOWN, 0.007), ("none", NOT_SHOWN, 0.74), ("unknown", ONE_SEED, None)]
)
def test_a_verdict_on_a_schedule_that_its_judge_steers_says_so(
    claim: str, difference: Difference, p: float | None
) -> None:
    words = in_words(decided(STEERED, claim, difference, p))
    said = (
        " The validation loss that judges val_loss 0.2 to 0 (factor 0.5, patience 1) also steers it. On the test half, "
        "which steered and chose nothing, it is worse by 0.0040 (-0.0060 to 0.0140)."
    )
    assert words.sentence.endswith(said)
    assert words.headline.endswith(said)
    assert "steers" not in in_words(decided(Linear(0.2, 0.0), claim, difference, p)).sentence
