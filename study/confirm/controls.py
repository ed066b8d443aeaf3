"""The simpler regularizers that may explain a difference: each leaves out one thing that a regularizer has."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from model.depth import Uniform
from model.families import Standard, Standout
from model.families import control as same_sites
from model.regularizer import Regularizer
from model.schedules import Constant, Piecewise, ValLoss
from model.size import ByWidth
from study.confirm.arms import Arm, CompletedTrial, canonical_regularizer
from study.confirm.decision import Comparison, claim, compare
from study.confirm.statistics import holm
from study.training.regularized import parts

Losses = Mapping[str, Mapping[int, float | None]]


@dataclass(frozen=True, kw_only=True)
class Control:
    """A simpler regularizer. `prefix` is for the names of arms, and `what` says what it is."""

    prefix: str
    what: str
    regularizer: Regularizer


def controls_of(regularizer: Regularizer) -> list[Control]:
    """Returns the controls of a regularizer; none for a schedule of standard dropout at nanoGPT's sites.

    Nor has standout's gate without sampling any, which is a control itself.
    """
    family, found = regularizer.family, []
    if isinstance(family, Standout) and not family.sampled:
        return []
    if not isinstance(family, Standard):
        simpler = replace(regularizer, family=same_sites(family))
        found.append(Control(prefix="control", what="standard dropout at the same sites", regularizer=simpler))
    elif family != Standard():
        simpler = replace(regularizer, family=Standard())
        found.append(Control(prefix="control", what="standard dropout at nanoGPT's sites", regularizer=simpler))
    if isinstance(family, Standout):
        # In evaluation a standout is a gate: another activation function, which may be all that it gains.
        simpler = replace(regularizer, family=replace(family, sampled=False))
        found.append(Control(prefix="gate", what="the same gate without sampling", regularizer=simpler))
    if regularizer.depth != Uniform():
        simpler = replace(regularizer, depth=Uniform())
        found.append(Control(prefix="uniform", what="the same rate in all layers", regularizer=simpler))
    if regularizer.size_rule != ByWidth():
        simpler = replace(regularizer, size_rule=ByWidth())
        found.append(Control(prefix="width", what="rates by the width of each size", regularizer=simpler))
    if not regularizer.is_plain and not isinstance(regularizer.schedule, Constant | Piecewise | ValLoss):
        largest = max(regularizer.rate(0), regularizer.rate(1))  # as papers compare a schedule with its end
        simpler = replace(regularizer, schedule=Constant(largest))
        found.append(Control(prefix="constant", what="its largest rate throughout", regularizer=simpler))
    return found


def best_of_families(completed: Iterable[CompletedTrial]) -> list[CompletedTrial]:
    """Returns the best trial of each family, of trials that are given best first; none if all are plain schedules."""
    trials = list(completed)
    if all(trial.regularizer.is_plain for trial in trials):
        return []
    best: dict[str, CompletedTrial] = {}
    for trial in trials:
        best.setdefault(trial.family.kind, trial)
    return list(best.values())


def family_arms(best: Sequence[CompletedTrial]) -> list[Arm]:
    """Returns an arm for the best trial of each family, each with its controls; the first is the study's winner.

    Only the winner is trained with the same rate in all layers too, and with rates by width: depth and sizes are not
    the families' question. None is trained at its largest rate throughout: for the winner `arms` has its mean rate.
    """
    found = []
    for place, trial in enumerate(best):
        kind = trial.family.kind
        name = f"family-{kind}"
        found.append(Arm(name=name, meaning=f"the best of {kind}, trial {trial.trial}", **parts(trial.regularizer)))
        found += [
            Arm(name=f"{c.prefix}-{kind}", meaning=f"{c.what} as {name}", **parts(c.regularizer))
            for c in controls_of(trial.regularizer)
            if c.prefix in (("control", "gate", "uniform", "width") if place == 0 else ("control", "gate"))
        ]
    return found


def explain(arms: Sequence[Arm], losses: Losses, against_baseline: Mapping[str, Comparison]) -> list[dict[str, Any]]:
    """Compares each arm with those of its controls that were trained too, on the seeds that both have.

    The test is the verdict's, and its p-values are adjusted for all these comparisons. An arm that differs from the
    best constant rate but not from a control is explained by what both have. Arms without a trained control are left
    out.

    Args:
        losses: by arm and seed.
        against_baseline: each arm's comparison with the best constant rate.
    """
    by_regularizer = {canonical_regularizer(arm.regularizer): arm for arm in arms}
    compared = []
    for arm in arms:
        for control in controls_of(arm.regularizer):
            other = by_regularizer.get(canonical_regularizer(control.regularizer))
            if other is None or other is arm:
                continue
            found = compare(losses, other.name)  # all arms tell how much one varies
            if arm.name in found:
                compared.append((arm, control.what, other, found[arm.name]))
    tests = [comparison.moderated or comparison.difference for *_, comparison in compared]  # equal arms need no test
    adjusted = holm([test.p for test in tests])
    explained: dict[str, dict[str, Any]] = {}
    for (arm, what, other, comparison), p in zip(compared, adjusted, strict=True):
        entry = explained.setdefault(arm.name, {"arm": arm.name, "family": arm.family.kind, "controls": []})
        comparison = replace(comparison, p_holm=p)
        entry["controls"].append(
            {"arm": other.name, "what": what, "claim": claim(comparison), "difference": comparison.to_dict()}
        )
    for name, entry in explained.items():
        against = against_baseline.get(name)
        entry["against_baseline"] = "unknown" if against is None else claim(against)
        entry["explained_by"] = _explained_by(entry["against_baseline"], entry["controls"])
    return list(explained.values())


def _explained_by(against_baseline: str, controls: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns what explains an arm's difference from the best constant rate: a control, "none", or None without one."""
    claims = {found["what"]: found["claim"] for found in controls}
    if against_baseline not in ("better", "worse") or "unknown" in claims.values():
        return None
    return next((what for what, said in claims.items() if said == "none"), "none")
