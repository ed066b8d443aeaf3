"""Optuna's sampler, which learns from diverged trials too."""

from collections.abc import Container
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.messages import DIVERGED


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

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy=False, states=None, use_cache=use_cache)
        shown = (_as_pruned(trial) if DIVERGED in trial.user_attrs else trial for trial in trials)
        return [trial for trial in shown if states is None or trial.state in states]


def _shown(study: optuna.Study) -> optuna.Study:
    shown = _ShownStudy.__new__(_ShownStudy)
    shown.__dict__ = study.__dict__
    return shown


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    pruned = create_trial(state=TrialState.PRUNED, params=trial.params, distributions=trial.distributions)
    pruned.number = trial.number
    return pruned
