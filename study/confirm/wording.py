"""The sentence that a verdict is told in. Only this module turns a verdict into words, and no code reads them back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.schedules import ValLoss
from study.base.names import NATS, amount
from study.confirm.arms import Arm
from study.confirm.decision import Comparison, ModeratedTest, Verdict
from study.confirm.looks import Looks
from study.confirm.statistics import POWER, Difference
from study.engine.display import describe

THAN = {
    "better": "better than",
    "worse": "worse than",
    "none": "no better than",
    "unknown": "not comparable, by a test, with",
}
"""The words for the claim of a comparison."""


@dataclass(frozen=True, kw_only=True)
class Wording:
    """A verdict in words.

    Attributes:
        headline: the claim alone.
        figures: the numbers behind the claim; empty if no test was possible.
        sentence: the claim with its numbers.
    """

    headline: str
    figures: str
    sentence: str


def in_words(verdict: Verdict) -> Wording:
    """Returns a verdict in words."""
    said, subject, comparison = _claim(verdict), verdict.subject, verdict.comparison
    if subject is None or comparison is None or comparison.p_holm is None:
        said += _on_test(verdict)
        return Wording(headline=said, figures="", sentence=said)
    low, high = _interval(comparison.moderated or comparison.difference, comparison.difference.mean)
    figures = (
        f"95 % interval {low:.4f} to {high:.4f}; Holm p = {_p(comparison.p_holm)} over {verdict.arms} arms; "
        f"n = {comparison.difference.n} seeds"
    )
    needed = f"; {_needed(verdict)}" if verdict.claim == "none" and verdict.excluded is None else ""
    return Wording(
        headline=f"{said}.{_on_test(verdict)}",
        figures=f"{figures}{needed}.",
        sentence=f"{said} ({figures}){needed}.{_on_test(verdict)}",
    )


def explanation(entry: Mapping[str, Any], arms: Mapping[str, Arm]) -> str:
    """Returns what an arm's controls say, from an entry of verdict.json's explanations: a sentence with its figures."""
    said = [f"{THAN[found['claim']]} {found['what']} ({_figures(found['difference'])})" for found in entry["controls"]]
    by = entry["explained_by"]
    if by == "none":
        end = "None of these explains its difference from the best constant rate."
    elif by is not None:
        end = f"Its difference from the best constant rate is explained by {by}."
    elif entry["against_baseline"] == "none":
        end = "No difference from the best constant rate was shown, so there is none to explain."
    else:
        end = "No test says what explains a difference from the best constant rate."
    return f"{_name(arms[entry['arm']])} is {'; '.join(said)}. {end}"


def added(verdict: Verdict, explanations: Sequence[Mapping[str, Any]]) -> str:
    """Returns what the controls add to the verdict on its subject; nothing if none of them was trained."""
    subject = verdict.subject.name if verdict.subject else None
    said = [
        f"{THAN[found['claim']]} {found['what']}"
        for entry in explanations
        if entry["arm"] == subject
        for found in entry["controls"]
    ]
    return f" It is {', and '.join(said)}." if said else ""


def _figures(difference: Mapping[str, Any]) -> str:
    test = difference["moderated"]
    if test is None or difference["p_holm"] is None:
        return f"{difference['mean']:+.4f}, no test"
    interval = f"{test['low']:+.4f} to {test['high']:+.4f}"
    return f"{difference['mean']:+.4f}, 95 % interval {interval}, Holm p = {_p(difference['p_holm'])}"


def after_look(looks: Looks, unit: str = NATS) -> str:
    """Returns what a look has shown, and what comes next."""
    last = looks.looks[-1]
    said = f"look at {last.seeds} seeds"
    for state in ("better", "worse"):
        if names := [arm.arm for arm in last.arms if arm.state == state]:
            said += f"; {state}: {', '.join(names)}"
    if names := [arm.arm for arm in last.arms if arm.gain_excluded and arm.state in ("open", "excluded")]:
        said += f"; no gain of {amount(looks.smallest or 0.0, unit)} or more: {', '.join(names)}"
    if looks.stopped == "shown":
        return f"{said}. The answer is shown."
    if looks.stopped == "excluded":
        return f"{said}. No arm whose rate changes can gain so much."
    question = f"{said}; in question: {', '.join(looks.open)}"
    return f"{question}. All seeds are used." if looks.stopped else f"{question}. Next look: {looks.next_seeds} seeds."


def _claim(verdict: Verdict) -> str:
    """Returns the claim: with its full stop if no test was possible, else without, since figures may follow."""
    rate = _name(verdict.baseline).removeprefix("constant ")
    if verdict.subject is None or verdict.comparison is None:
        return (
            "No verdict: no other arm has a completed run on a seed of the best constant rate "
            f"({_name(verdict.baseline)}), which it is to be compared with."
        )
    name, difference = _name(verdict.subject), verdict.comparison.difference
    than, size = f"the best constant rate ({rate})", amount(abs(difference.mean), verdict.unit)
    seen = f"{_direction(difference)} by {size}"
    if verdict.claim == "unknown":
        why = "one seed cannot tell" if difference.n == 1 else "seeds without any variation cannot tell"
        return f"No verdict: {name} is {seen} than {than}, but {why} a difference from noise."
    if verdict.claim == "better":
        return f"{name} beats {than} by {size}"
    if verdict.claim == "worse":
        return f"No schedule is as good as {than}: {name}, the best of them, is {seen}"
    if verdict.excluded is not None:
        gain = amount(verdict.excluded, verdict.unit)
        return (
            f"No schedule gains {gain} or more over {than}: {name}, the best of them, is {seen}, and such a gain is "
            "excluded"
        )
    return f"No difference that {difference.n} seeds can show: {name}, the best schedule, is {seen} than {than}"


def _needed(verdict: Verdict) -> str:
    if verdict.needed is None:
        return "no practical number of seeds would show a difference as small as the one seen"
    return (
        f"{verdict.needed:,} seeds would be needed to show a difference as large as the one seen "
        f"(in {POWER:.0%} of cases)"
    )


def _on_test(verdict: Verdict) -> str:
    """Returns the result on the test half: for a claimed difference, and for each schedule that val_loss steers."""
    if verdict.subject is None:
        return ""
    if isinstance(verdict.subject.schedule, ValLoss):
        return (
            f" The validation loss that judges {_name(verdict.subject)} also steers it. "
            f"{_test_result(verdict.test, 'steered and chose nothing')}"
        )
    if verdict.claim in ("unknown", "none") or verdict.test is None or verdict.test.difference.low is None:
        return ""
    return f" {_test_result(verdict.test, 'chose nothing')}"


def _test_result(test: Comparison | None, role: str) -> str:
    if test is None:
        return "Its test_loss was not measured."
    difference = test.difference
    interval = ""
    if difference.low is not None:
        low, high = _interval(difference, difference.mean)
        interval = f" ({low:.4f} to {high:.4f})"
    return f"On the test half, which {role}, it is {_direction(difference)} by {abs(difference.mean):.4f}{interval}."


def _interval(found: Difference | ModeratedTest, mean: float) -> tuple[float, float]:
    """Returns the interval of the size of a difference, in the direction of its mean."""
    assert found.low is not None
    assert found.high is not None
    sign = -1 if mean < 0 else 1
    low, high = sorted((sign * found.low, sign * found.high))
    return low, high


def _direction(difference: Difference) -> str:
    return "better" if difference.mean < 0 else "worse"


def _name(arm: Arm) -> str:
    return describe(arm.regularizer.to_dict())


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else "below 0.001"
