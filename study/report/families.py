"""The families of a study: the best trial of each, beside standard dropout at the same sites."""

from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from model.families import Standard
from model.regularizer import Regularizer
from search_spaces import EQUAL_SHARES
from study.records.optuna_study import loss_of
from study.report.parameters import Importance, importance
from study.report.trials import Trial, ranked


@dataclass(frozen=True, kw_only=True)
class FamilyResult:
    """What a search found of a family.

    Attributes:
        trials: those that have evaluations, and `completed`: those that reached their end.
        best: the best completed trial; None without any.
        control: the best completed trial of standard dropout at the sites of `best`; None for standard dropout itself,
            or if the study has no such trial. Its schedule may differ: only a confirmation pairs them.
    """

    kind: str
    trials: int
    completed: int
    best: Trial | None
    control: Trial | None


def family_results(trials: Sequence[Trial]) -> list[FamilyResult]:
    """Returns the result of each family, best first; none if the study has one family only."""
    seen = [t for t in trials if t.steps]
    best_first = ranked(seen)
    kinds = list(dict.fromkeys(t.family_kind for t in (*best_first, *seen)))
    if len(kinds) < 2:
        return []
    standard = [t for t in best_first if t.family_kind == Standard.kind]
    results = []
    for kind in kinds:
        mine = [t for t in best_first if t.family_kind == kind]
        best = mine[0] if mine else None
        controls = [t for t in standard if best is not None and _sites(t) == _sites(best)]
        results.append(
            FamilyResult(
                kind=kind,
                trials=sum(t.family_kind == kind for t in seen),
                completed=len(mine),
                best=best,
                control=controls[0] if controls and kind != Standard.kind else None,
            )
        )
    return results


def best_of_depths(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the best completed trial of each depth but uniform, best first."""
    best: dict[str, Trial] = {}
    for trial in ranked(trials):
        best.setdefault(str(trial.depth["kind"]), trial)
    return [trial for kind, trial in best.items() if kind != "uniform"]


def importance_within(study: optuna.Study, space: str) -> dict[str, Importance | None]:
    """Returns the importances among the trials of each value of the space's equal shares, where it has such shares.

    None is for too few completed trials, or trials that do not differ.
    """
    if space not in EQUAL_SHARES:
        return {}
    parameter, values = EQUAL_SHARES[space]
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found = {}
    for value in values:
        alone = optuna.create_study()
        alone.add_trials([_without(parameter, t) for t in completed if t.params.get(parameter) == value])
        found[value] = importance(alone)
    return found


def _without(parameter: str, completed: FrozenTrial) -> FrozenTrial:
    """Returns a trial without a parameter, which is the same in all trials that are compared."""
    return create_trial(
        value=loss_of(completed),
        params={name: value for name, value in completed.params.items() if name != parameter},
        distributions={name: kind for name, kind in completed.distributions.items() if name != parameter},
    )


def _sites(trial: Trial) -> tuple[str, ...]:
    return Regularizer.from_dict(trial.regularizer).family.all_sites
