"""The statistical decision: each arm against the best constant rate, and the claim about the best schedule."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.base.names import NATS
from study.confirm.arms import Arm
from study.confirm.moderated_test import moderate
from study.confirm.statistics import CONFIDENCE, Difference, holm, paired_difference, seeds_needed

ALPHA = 0.05
"""The chance that a verdict claims a difference where there is none, over all arms."""


@dataclass(frozen=True, kw_only=True)
class ModeratedTest:
    """The test of an arm against the baseline with variances moderated across arms.

    Attributes:
        sd: moderated standard deviation of the difference on one seed, in nats.
        freedom: degrees of freedom.
        low, high: the 95 % interval of the mean difference, in nats.
        p: the p-value before any adjustment.
    """

    sd: float
    freedom: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An arm against the baseline.

    Attributes:
        difference: with the plain paired t-test.
        moderated: the test that a verdict uses; None if none is possible.
        p_holm: its p-value, adjusted for the number of arms, and of looks if there are several.
    """

    difference: Difference
    p_holm: float | None
    moderated: ModeratedTest | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the comparison as plain values."""
        moderated = None if self.moderated is None else asdict(self.moderated)
        return asdict(self.difference) | {"p_holm": self.p_holm, "moderated": moderated}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The claim about one arm, the subject, against the baseline.

    Attributes:
        claim: better, worse, none (no difference shown), or unknown (no test possible).
        subject: None if no arm shares a seed with the baseline.
        arms: how many arms were compared; the p-value is adjusted for this number.
        test: the subject's comparison on test_loss, if that was measured.
        needed: seeds that would show a difference as large as the one seen; None if not computed or impractical.
        excluded: the gain that the looks have excluded, if no difference is shown.
        unit: of the losses; may be empty.
    """

    claim: str
    baseline: Arm
    subject: Arm | None
    arms: int
    comparison: Comparison | None
    test: Comparison | None
    needed: int | None
    excluded: float | None = None
    unit: str = NATS


def compare(losses: Mapping[str, Mapping[int, float | None]], baseline: str) -> dict[str, Comparison]:
    """Compares each arm with the baseline on the seeds that both have; leaves out arms that share no seed.

    Args:
        losses: by arm and seed.
    """
    differences = {
        arm: difference
        for arm, by_seed in losses.items()
        if arm != baseline and (difference := paired_difference(by_seed, losses[baseline])) is not None
    }
    tests = _moderated_tests({arm: losses[arm] for arm in (baseline, *differences)})
    tested = {arm: tests[arm] if difference.p is not None else None for arm, difference in differences.items()}
    adjusted = holm([test.p if test else None for test in tested.values()])
    return {
        arm: Comparison(difference=difference, moderated=tested[arm], p_holm=p)
        for (arm, difference), p in zip(differences.items(), adjusted, strict=True)
    }


def loss_table(losses: Sequence[Mapping[int, float | None]], seeds: Sequence[int]) -> NDArray[np.float64]:
    """Returns losses by arm and seed as an array (arms, seeds); NaN where a run is missing or its loss is infinite."""
    found = np.array([[np.nan if (x := arm.get(seed)) is None else x for seed in seeds] for arm in losses], np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def seed_sd(losses: Mapping[str, Mapping[int, float | None]]) -> float | None:
    """Returns how runs of an average arm differ over seeds, beyond what a seed does to all arms, in nats.

    None if no seed has two arms, or there are fewer than two such seeds.
    """
    seeds = sorted({seed for by_seed in losses.values() for seed in by_seed})
    arms = [by_seed for by_seed in losses.values() if by_seed]
    if len(arms) < 2 or not seeds:
        return None
    found = float(moderate(loss_table(arms, seeds)).seed_sd)
    return found if found > 0 else None


def _moderated_tests(losses: Mapping[str, Mapping[int, float | None]]) -> dict[str, ModeratedTest | None]:
    """Returns the test of each arm against the first."""
    seeds = sorted({seed for by_seed in losses.values() for seed in by_seed})
    arms = list(losses)[1:]
    if not arms:
        return {}
    found = moderate(loss_table(list(losses.values()), seeds))
    half = found.half_width(1 - CONFIDENCE)
    return {
        arm: ModeratedTest(
            sd=float(np.sqrt(found.variance[i])),
            freedom=float(found.freedom[i]),
            low=float(found.mean[i] - half[i]),
            high=float(found.mean[i] + half[i]),
            p=float(found.p[i]),
        )
        if found.variance[i] > 0
        else None
        for i, arm in enumerate(arms)
    }


def decide(
    arms: Sequence[Arm],
    comparisons: Mapping[str, Comparison],
    baseline: str,
    on_test: Mapping[str, Comparison] | None = None,
    excluded: Mapping[str, float] | None = None,
) -> Verdict:
    """Returns the verdict on the schedule that a reader would choose.

    This is the best of the arms whose rate changes and that are shown to be better; without any, the best arm whose
    rate changes. If all arms are constant rates, they are the candidates. The verdict may choose any arm and still errs
    only as often as ALPHA, since the p-values are adjusted for all arms.

    Args:
        on_test: the same comparisons on test_loss.
        excluded: arms whose looks have excluded a gain, each with this gain in nats.
    """
    (reference,) = [arm for arm in arms if arm.name == baseline]
    subject = _subject(arms, comparisons)
    if subject is None:
        return Verdict(
            claim="unknown", baseline=reference, subject=None, arms=0, comparison=None, test=None, needed=None
        )
    comparison = comparisons[subject.name]
    claimed = claim(comparison)
    bound = (excluded or {}).get(subject.name) if claimed == "none" else None
    return Verdict(
        claim=claimed,
        baseline=reference,
        subject=subject,
        arms=len(comparisons),
        comparison=comparison,
        test=(on_test or {}).get(subject.name),
        needed=_needed(comparison, len(comparisons)) if claimed == "none" and bound is None else None,
        excluded=bound,
    )


def _needed(comparison: Comparison, arms: int) -> int | None:
    test = comparison.moderated
    difference = replace(comparison.difference, sd=test.sd) if test else comparison.difference
    return seeds_needed(difference, ALPHA / arms, arms)


def _subject(arms: Sequence[Arm], comparisons: Mapping[str, Comparison]) -> Arm | None:
    compared = [arm for arm in arms if arm.name in comparisons]
    candidates = [arm for arm in compared if not arm.is_constant_rate] or compared
    most = max((comparisons[arm.name].difference.n for arm in candidates), default=0)
    # An arm with failed runs is no schedule to choose.
    candidates = [arm for arm in candidates if comparisons[arm.name].difference.n == most]
    candidates = [arm for arm in candidates if claim(comparisons[arm.name]) == "better"] or candidates
    return min(candidates, key=lambda arm: comparisons[arm.name].difference.mean, default=None)


def claim(comparison: Comparison) -> str:
    """Returns what a comparison shows: better, worse, none (no difference shown), or unknown (no test possible)."""
    if comparison.p_holm is None:
        return "unknown"
    if comparison.p_holm >= ALPHA:
        return "none"
    return "better" if comparison.difference.mean < 0 else "worse"
