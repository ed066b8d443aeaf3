"""The statistical decision: each arm against the best constant rate, and the claim about the best schedule."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from study.confirm.arms import Arm
from study.confirm.statistics import Difference, holm, paired_difference, seeds_needed

ALPHA = 0.05
"""The chance that a verdict claims a difference where there is none, over all arms."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An arm against the baseline; `p_holm` is the p-value adjusted for the number of arms."""

    difference: Difference
    p_holm: float | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the comparison as plain values."""
        return asdict(self.difference) | {"p_holm": self.p_holm}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The claim about one arm, the subject, against the baseline.

    Attributes:
        claim: better, worse, none (no difference shown), or unknown (no test possible).
        subject: None if no arm shares a seed with the baseline.
        arms: how many arms were compared; the p-value is adjusted for this number.
        test: the subject's comparison on test_loss, if that was measured.
        needed: seeds that would show a difference as large as the one seen; None if not computed or impractical.
    """

    claim: str
    baseline: Arm
    subject: Arm | None
    arms: int
    comparison: Comparison | None
    test: Comparison | None
    needed: int | None


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
    adjusted = holm([difference.p for difference in differences.values()])
    return {
        arm: Comparison(difference=difference, p_holm=p)
        for (arm, difference), p in zip(differences.items(), adjusted, strict=True)
    }


def decide(
    arms: Sequence[Arm],
    comparisons: Mapping[str, Comparison],
    baseline: str,
    on_test: Mapping[str, Comparison] | None = None,
) -> Verdict:
    """Returns the verdict on the schedule that a reader would choose: the best arm whose rate changes.

    If all arms are constant rates, the best of them is the subject. The verdict may choose any arm and still errs only
    as often as ALPHA, since the p-values are adjusted for all arms.

    Args:
        on_test: the same comparisons on test_loss.
    """
    (reference,) = [arm for arm in arms if arm.name == baseline]
    subject = _subject(arms, comparisons)
    if subject is None:
        return Verdict(
            claim="unknown", baseline=reference, subject=None, arms=0, comparison=None, test=None, needed=None
        )
    comparison = comparisons[subject.name]
    claimed = claim(comparison)
    return Verdict(
        claim=claimed,
        baseline=reference,
        subject=subject,
        arms=len(comparisons),
        comparison=comparison,
        test=(on_test or {}).get(subject.name),
        needed=seeds_needed(comparison.difference, ALPHA / len(comparisons)) if claimed == "none" else None,
    )


def _subject(arms: Sequence[Arm], comparisons: Mapping[str, Comparison]) -> Arm | None:
    compared = [arm for arm in arms if arm.name in comparisons]
    candidates = [arm for arm in compared if not arm.is_constant_rate] or compared
    most = max((comparisons[arm.name].difference.n for arm in candidates), default=0)
    # An arm with failed runs is no schedule to choose.
    candidates = [arm for arm in candidates if comparisons[arm.name].difference.n == most]
    return min(candidates, key=lambda arm: comparisons[arm.name].difference.mean, default=None)


def claim(comparison: Comparison) -> str:
    """Returns what a comparison shows: better, worse, none (no difference shown), or unknown (no test possible)."""
    if comparison.p_holm is None:
        return "unknown"
    if comparison.p_holm >= ALPHA:
        return "none"
    return "better" if comparison.difference.mean < 0 else "worse"
