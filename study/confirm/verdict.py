"""The verdict of a confirmation: all that verdict.json holds, computed from the tables of the runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from model.schedules import from_dict
from study.base.errors import first_line
from study.base.names import METRIC, NATS
from study.confirm.arms import Arm
from study.confirm.controls import explain
from study.confirm.decision import ALPHA, Comparison, compare, decide, seed_sd
from study.confirm.looks import Looks
from study.confirm.paper import paper_table
from study.confirm.results import NUMBERS, Results, Row, best_rate, by_seed
from study.confirm.statistics import summary
from study.confirm.verdict_file import FORMAT
from study.confirm.wording import added, explanation, in_words
from study.corpus import SHAKESPEARE_CHAR_SHA256

PUBLISHED = {"nanoGPT's README": 1.4697, "AI-Scientist's nanoGPT template, mean of 5 seeds (SD 0.0027)": 1.4655}
"""Best validation losses of the preset shakespeare_char's model elsewhere; best_full_val_loss is comparable to them."""


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
    sequential: Looks | None = None,
    unit: str = NATS,
    papers: bool = True,
) -> dict[str, Any]:
    """Returns the content of verdict.json.

    Args:
        arms: in the order of the table.
        same_as: arms that were not trained, each with the arm that has the same schedule.
        corpus_sha256: of the text; decides whether full_val_loss is comparable to published values.
        whole: whether an evaluation reads all of its split.
        before: the previous verdict of the same confirmation.
        sequential: the looks of --until-decided.
        unit: of the losses; may be empty.
        papers: whether papers are about what was trained: their claims and losses are of the plain GPT.
    """
    seeds = sorted({run["seed"] for run in results.runs})
    losses = {arm.name: by_seed(results.runs, arm.name, METRIC) for arm in arms}
    comparisons = compare(losses, baseline)
    on_test = compare({arm.name: by_seed(results.runs, arm.name, "test_loss") for arm in arms}, baseline)
    excluded = dict[str, float]()
    if sequential:
        comparisons = {arm: replace(found, p_holm=sequential.p_holm[arm]) for arm, found in comparisons.items()}
        excluded = {arm: sequential.smallest or 0.0 for arm in comparisons if sequential.last(arm).gain_excluded}
    verdict = decide(arms, comparisons, baseline, on_test, excluded)
    words = in_words(replace(verdict, unit=unit))
    explanations = [
        entry | {"sentence": explanation(entry, {arm.name: arm for arm in arms})}
        for entry in explain(arms, losses, comparisons)
    ]
    more = added(verdict, explanations)
    looks = sorted({*before["looks"], len(before["seeds"])} - {len(seeds)}) if before else []
    if sequential:
        looks = [look.seeds for look in sequential.looks[:-1]]
    published = papers and whole and corpus_sha256 == SHAKESPEARE_CHAR_SHA256
    return {
        "format": FORMAT,
        "verdict": words.sentence + more,
        "headline": words.headline + more,
        "figures": words.figures,
        "claim": verdict.claim,
        "subject": verdict.subject.name if verdict.subject else None,
        "seeds_needed": verdict.needed,
        "gain_excluded": verdict.excluded,
        "baseline": baseline,
        "metric": METRIC,
        "unit": unit,
        "alpha": ALPHA,
        "seeds": seeds,
        "looks": looks,
        "sequential": sequential.to_dict() if sequential else None,
        "seed_sd": seed_sd(losses),
        "arms": [_arm(arm, results.runs, comparisons, on_test) for arm in arms],
        "same_as": dict(same_as),
        "explanations": explanations,
        "sweep": _sweep(results.sweep),
        "paper": paper_table(arms, results.runs, baseline, same_as) if papers else {"rows": [], "claims": []},
        "published": PUBLISHED if published else None,
        "warnings": [*warnings, *_warnings(results, arms, baseline, [] if sequential else looks)],
    }


def _arm(
    arm: Arm, runs: Sequence[Row], comparisons: Mapping[str, Comparison], on_test: Mapping[str, Comparison]
) -> dict[str, Any]:
    mine = [run for run in runs if run["arm"] == arm.name]
    completed = [run for run in mine if run["outcome"] == "completed"]
    summaries = {name: summary([run[name] for run in completed]) for name in NUMBERS}
    return {
        "arm": arm.name,
        "is": arm.meaning,
        **arm.regularizer.to_dict(),
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


def _warnings(results: Results, arms: Sequence[Arm], baseline: str, looks: Sequence[int]) -> list[str]:
    warnings = []
    if looks:
        numbers = ", ".join(map(str, looks))
        warnings.append(
            f"this confirmation was judged before, with {numbers} seeds: p-values hold only for a number of seeds that "
            "was chosen beforehand, since repeated looks find differences by chance"
        )
    for arm in arms:
        failed = [run for run in results.runs if run["arm"] == arm.name and run["outcome"] != "completed"]
        if failed:
            seeds = ", ".join(str(run["seed"]) for run in failed)
            reason = first_line(failed[0]["reason"])[:120]
            warnings.append(f"{arm.name} lacks seed {seeds} ({reason}): it is compared on its other seeds")
    tried = {json.loads(run["schedule"])["rate"] for run in results.sweep}
    best = best_rate(results.sweep)
    if best is not None and best == max(tried) and len(tried) > 1:
        warnings.append(f"the best constant rate, {best:g}, is the highest tried: a higher rate may be better")
    schedule = next((arm.schedule for arm in arms if arm.name == baseline), None)
    if schedule is not None and schedule == from_dict({"kind": "constant", "rate": 0.0}):
        warnings.append("no dropout is the best constant rate: this model and budget do not need dropout")
    return warnings
