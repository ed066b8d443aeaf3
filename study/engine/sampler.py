"""Optuna's sampler, which learns from diverged trials too."""

from collections.abc import Container
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.engine.worker_messages import DIVERGED
from study.records.optuna_study import loss_of

MOST_TRIALS = 256
"""Of those that have ended the sampler sees the newest, and the best."""
BEST_TRIALS = 25
"""More than so many TPE never takes for the good ones."""


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """Returns a sampler by its name: tpe or random."""
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # Conditional parameters join the model only as groups; trials that run count as bad, so as not to repeat them.
    tpe = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    return AvoidingSampler(tpe)


class AvoidingSampler(optuna.samplers.BaseSampler):
    """Shows another sampler a study in which diverged trials are the worst of all, instead of none.

    A diverged trial is a failure, and Optuna's samplers pass failures over: they would suggest the same again. What it
    shows instead is a trial pruned before its first value, which TPE ranks last; a made-up loss would bend its model.
    """

    def __init__(self, sampler: optuna.samplers.BaseSampler) -> None:
        self._sampler = sampler

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See BaseSampler."""
        return self._sampler.infer_relative_search_space(_shown(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See BaseSampler."""
        return self._sampler.sample_relative(_shown(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See BaseSampler."""
        return self._sampler.sample_independent(_shown(study), trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """See BaseSampler."""
        self._sampler.reseed_rng()


class _ShownStudy(optuna.Study):
    """A study as the sampler sees it. Optuna's samplers read trials through `_get_trials` (seen in 5.0)."""

    _shown_trials: list[FrozenTrial]

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._shown_trials if states is None or trial.state in states]


def _shown(study: optuna.Study) -> optuna.Study:
    trials = study._get_trials(deepcopy=False, states=None, use_cache=False)
    shown = _ShownStudy.__new__(_ShownStudy)
    shown.__dict__ = study.__dict__ | {
        "_shown_trials": [_as_pruned(trial) if DIVERGED in trial.user_attrs else trial for trial in _worth_it(trials)]
    }
    return shown


def _worth_it(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Leaves out old trials that are none of the best, should there be many: TPE's work grows with each."""
    ended = [trial for trial in trials if trial.state.is_finished()]
    if len(ended) <= MOST_TRIALS:
        return trials
    completed = [trial for trial in ended if trial.state is TrialState.COMPLETE]
    best = sorted(completed, key=lambda trial: (loss_of(trial), trial.number))[:BEST_TRIALS]
    left_out = {trial.number for trial in ended[:-MOST_TRIALS]} - {trial.number for trial in best}
    return [trial for trial in trials if trial.number not in left_out]


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    pruned = create_trial(state=TrialState.PRUNED, params=trial.params, distributions=trial.distributions)
    pruned.number = trial.number
    return pruned
