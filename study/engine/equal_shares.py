"""Equal shares: each value of one parameter of a space gets as many trials as the others."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from search_spaces import EQUAL_SHARES

LEAST_EACH = 4
"""Trials of a value, if no number is asked for: two configurations of the papers, and two that the sampler chooses."""


@dataclass(frozen=True, kw_only=True)
class EqualShares:
    """A categorical parameter whose values share the trials of a study equally."""

    parameter: str
    values: tuple[str, ...]

    @classmethod
    def of_space(cls, space: str) -> "EqualShares | None":
        """Returns the shares that a space declares; None if it leaves all parameters to the sampler."""
        if space not in EQUAL_SHARES:
            return None
        parameter, values = EQUAL_SHARES[space]
        return cls(parameter=parameter, values=values)

    def trials(self, wanted: int) -> int:
        """Returns a number of trials that the values share equally: at least `wanted`, and LEAST_EACH for each."""
        return max(LEAST_EACH, -(-wanted // len(self.values))) * len(self.values)

    def enqueue_next(self, study: optuna.Study) -> None:
        """Asks for a trial of the value that has the fewest, unless a trial waits already.

        Trials count however they ended, so that a value whose trials fail does not get those of the others. Nothing but
        the study is counted: a resumed study goes on with the value that is next. Call it when all trials that an
        earlier session left unfinished have their parameters.
        """
        trials = study.get_trials(deepcopy=False)
        if any(trial.state is TrialState.WAITING for trial in trials):
            return
        count = Counter(trial.params.get(self.parameter) for trial in trials)
        study.enqueue_trial({self.parameter: min(self.values, key=lambda value: count[value])})


def group_of(shares: EqualShares | None, parameters: Mapping[str, Any]) -> str:
    """Returns the name of the trials that early stopping compares a trial with; "" if these are all trials."""
    return "" if shares is None else str(parameters.get(shares.parameter, ""))
