"""What a confirmation's runs say: each arm against the best constant rate, and one sentence."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.schedules import from_dict
from study.base.errors import UserError
from study.base.files import atomic_path
from study.confirm.arms import Arm, is_constant
from study.confirm.paper import paper_table
from study.confirm.results import NUMBERS, Results, Row, best_rate, by_seed
from study.confirm.statistics import POWER, Difference, holm, paired_difference, seeds_needed, summary
from study.corpus import SHAKESPEARE_CHAR_SHA256
from study.engine.display import describe

FORMAT = "dynamic-dropout-verdict/1"
METRIC = "best_val_loss"
ALPHA = 0.05
"""The chance that a verdict claims a difference where there is none, over all arms."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An arm against the baseline; `p_holm` is the p-value adjusted for the number of arms."""

    difference: Difference
    p_holm: float | None

    def to_dict(self) -> dict[str, Any]:
        """Returns it as plain values."""
        return asdict(self.difference) | {"p_holm": self.p_holm}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The sentence; what it claims of `subject` against the baseline: better, worse, none, or unknown."""

    sentence: str
    claim: str
    subject: str | None


def compare(losses: Mapping[str, Mapping[int, float | None]], baseline: str) -> dict[str, Comparison]:
    """Returns each arm's comparison with the baseline, as far as they have seeds in common.

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


def decide(arms: Sequence[Arm], comparisons: Mapping[str, Comparison], baseline: str) -> Verdict:
    """Returns the verdict on the schedule that one would pick: the best arm that is no constant rate.

    If all arms are constant rates, the best of them. It may err on any of them only as often as ALPHA, since the
    p-values are adjusted for all arms.
    """
    names = {arm.name: describe(arm.schedule.to_dict()) for arm in arms}
    other = [arm for arm in arms if arm.name in comparisons]
    candidates = [arm for arm in other if not is_constant(arm.schedule)] or other
    if not candidates:
        return Verdict(sentence=_nothing_to_compare(baseline, names), claim="unknown", subject=None)
    most = max(comparisons[arm.name].difference.n for arm in candidates)
    candidates = [arm for arm in candidates if comparisons[arm.name].difference.n == most]  # one that fails is no pick
    subject = min(candidates, key=lambda arm: comparisons[arm.name].difference.mean).name
    comparison = comparisons[subject]
    difference, p = comparison.difference, comparison.p_holm
    than = f"the best constant rate ({names[baseline].removeprefix('constant ')})"
    size = f"{abs(difference.mean):.4f} nats"
    seen = f"{'better' if difference.mean < 0 else 'worse'} by {size}"
    if difference.p is None:
        why = "one seed cannot tell" if difference.n == 1 else "seeds without any variation cannot tell"
        sentence = f"No verdict: {names[subject]} is {seen} than {than}, but {why} a difference from noise."
        return Verdict(sentence=sentence, claim="unknown", subject=subject)
    assert difference.low is not None  # as p is not None
    assert difference.high is not None
    assert p is not None
    sign = -1 if difference.mean < 0 else 1
    interval = sorted((sign * difference.low, sign * difference.high))
    figures = (
        f"95 % interval {interval[0]:.4f} to {interval[1]:.4f}; Holm p = {_p(p)} over {len(comparisons)} arms; "
        f"n = {difference.n} seeds"
    )
    if p < ALPHA and difference.mean < 0:
        return Verdict(
            sentence=f"{names[subject]} beats {than} by {size} ({figures}).", claim="better", subject=subject
        )
    if p < ALPHA:
        sentence = f"No schedule is as good as {than}: {names[subject]}, the best of them, is {seen} ({figures})."
        return Verdict(sentence=sentence, claim="worse", subject=subject)
    needed = seeds_needed(difference, ALPHA / len(comparisons))
    more = (
        f"{needed:,} seeds would be needed to show a difference as large as the one seen (in {POWER:.0%} of cases)"
        if needed is not None
        else "no practical number of seeds would show a difference as small as the one seen"
    )
    sentence = (
        f"No difference that {difference.n} seeds can show: {names[subject]}, the best schedule, is {seen} than {than} "
        f"({figures}); {more}."
    )
    return Verdict(sentence=sentence, claim="none", subject=subject)


def judge(
    results: Results,
    arms: Sequence[Arm],
    *,
    baseline: str,
    same_as: Mapping[str, str],
    warnings: Sequence[str] = (),
    corpus_sha256: str | None = None,
    whole: bool = False,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns all that verdict.json says, from the tables of the runs.

    Args:
        arms: in the order of the table.
        same_as: arms that were not trained, by the arm with the same schedule.
        corpus_sha256: of the text, to know whether full_val_loss may stand beside published values.
        whole: whether an evaluation reads all of its split.
        before: the last verdict of the same confirmation.
    """
    seeds = sorted({run["seed"] for run in results.runs})
    losses = {arm.name: by_seed(results.runs, arm.name, METRIC) for arm in arms}
    comparisons = compare(losses, baseline)
    on_test = compare({arm.name: by_seed(results.runs, arm.name, "test_loss") for arm in arms}, baseline)
    verdict = decide(arms, comparisons, baseline)
    looks = sorted({*before["looks"], len(before["seeds"])} - {len(seeds)}) if before else []
    published = corpus_sha256 == SHAKESPEARE_CHAR_SHA256 and whole
    return {
        "format": FORMAT,
        "verdict": verdict.sentence + _on_test(verdict, on_test),
        "claim": verdict.claim,
        "subject": verdict.subject,
        "baseline": baseline,
        "metric": METRIC,
        "alpha": ALPHA,
        "seeds": seeds,
        "looks": looks,
        "arms": [_arm(arm, results.runs, comparisons, on_test) for arm in arms],
        "same_as": dict(same_as),
        "sweep": _sweep(results.sweep),
        "paper": paper_table(arms, results.runs, baseline, same_as),
        "published": PUBLISHED if published else None,
        "warnings": [*warnings, *_warnings(results, arms, baseline, looks)],
    }


PUBLISHED = {"nanoGPT's README": 1.4697, "AI-Scientist's nanoGPT template, mean of 5 seeds (SD 0.0027)": 1.4655}
"""Best validation losses of the preset shakespeare_char's model elsewhere, which best_full_val_loss stands beside."""


def write_verdict(verdict: Mapping[str, Any], folder: Path) -> Path:
    """Writes verdict.json into a folder; returns its path."""
    path = folder / "verdict.json"
    with atomic_path(path) as part:
        part.write_text(json.dumps(verdict, indent=1, allow_nan=False), encoding="utf-8")
    return path


def read_verdict(folder: Path) -> dict[str, Any] | None:
    """Returns the verdict in a folder; None if there is none. Raises UserError if it is damaged."""
    path = folder / "verdict.json"
    if not path.exists():
        return None
    try:
        verdict: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if verdict["format"] != FORMAT:
            raise ValueError(f"its format is {verdict['format']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it") from None
    return verdict


def is_whole(verdict: Mapping[str, Any], seeds: int) -> bool:
    """Whether a verdict is on so many seeds and lacks no run."""
    return len(verdict["seeds"]) == seeds and not any(arm["failed"] for arm in verdict["arms"])


def _arm(
    arm: Arm, runs: Sequence[Row], comparisons: Mapping[str, Comparison], on_test: Mapping[str, Comparison]
) -> dict[str, Any]:
    mine = [run for run in runs if run["arm"] == arm.name]
    completed = [run for run in mine if run["outcome"] == "completed"]
    summaries = {name: summary([run[name] for run in completed]) for name in NUMBERS}
    return {
        "arm": arm.name,
        "is": arm.meaning,
        "schedule": arm.schedule.to_dict(),
        "n": len(completed),
        "failed": len(mine) - len(completed),
        **{name: asdict(value) if value else None for name, value in summaries.items()},
        "difference": comparisons[arm.name].to_dict() if arm.name in comparisons else None,
        "test_difference": on_test[arm.name].to_dict() if arm.name in on_test else None,
    }


def _sweep(sweep: Sequence[Row]) -> list[dict[str, Any]]:
    by_rate: dict[float, list[Row]] = {}
    for run in sweep:
        by_rate.setdefault(json.loads(run["schedule"])["rate"], []).append(run)
    rows = []
    for rate, runs in sorted(by_rate.items()):
        losses = summary([run[METRIC] for run in runs if run["outcome"] == "completed"])
        rows.append({"rate": rate, "n": losses.n if losses else 0, METRIC: asdict(losses) if losses else None})
    return rows


def _on_test(verdict: Verdict, on_test: Mapping[str, Comparison]) -> str:
    if verdict.claim in ("unknown", "none") or verdict.subject is None or verdict.subject not in on_test:
        return ""
    difference = on_test[verdict.subject].difference
    if difference.low is None or difference.high is None:
        return ""
    sign = -1 if difference.mean < 0 else 1
    low, high = sorted((sign * difference.low, sign * difference.high))
    word = "better" if difference.mean < 0 else "worse"
    return (
        f" On the test half, which chose nothing, it is {word} by {abs(difference.mean):.4f} ({low:.4f} to {high:.4f})."
    )


def _warnings(results: Results, arms: Sequence[Arm], baseline: str, looks: Sequence[int]) -> list[str]:
    warnings = []
    if looks:
        numbers = ", ".join(map(str, looks))
        warnings.append(
            f"there were verdicts with {numbers} seeds before: p-values hold for a number of seeds chosen beforehand"
        )
    for arm in arms:
        failed = [run for run in results.runs if run["arm"] == arm.name and run["outcome"] != "completed"]
        if failed:
            seeds = ", ".join(str(run["seed"]) for run in failed)
            reason = str(failed[0]["reason"]).splitlines()[0][:120]
            warnings.append(f"{arm.name} lacks seed {seeds} ({reason}): it is compared on the others")
    tried = {json.loads(run["schedule"])["rate"] for run in results.sweep}
    best = best_rate(results.sweep)
    if best is not None and best == max(tried) and len(tried) > 1:
        warnings.append(f"the best constant rate, {best:g}, is the highest tried: a higher one may be better")
    schedule = next((arm.schedule for arm in arms if arm.name == baseline), None)
    if schedule is not None and schedule == from_dict({"kind": "constant", "rate": 0.0}):
        warnings.append("no dropout is the best constant rate: this model and budget do not need dropout")
    return warnings


def _nothing_to_compare(baseline: str, names: Mapping[str, str]) -> str:
    return (
        f"No verdict: no other arm has a completed run on a seed of the best constant rate ({names[baseline]}), "
        "which it is to be compared with."
    )


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else "below 0.001"
