"""Tune's schedulers: one that stops nothing, and ASHA that spares and remembers."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from study.base.names import METRIC
from study.records.optuna_study import finished, unfinished

REDUCTION_FACTOR = 3
"""One trial in three passes a rung."""


def rungs(steps: int, grace_steps: int) -> list[int]:
    """Returns the steps, before the last one, at which ASHA compares trials."""
    found = []
    while grace_steps < steps:
        found.append(grace_steps)
        grace_steps *= REDUCTION_FACTOR
    return found


class InOrder(FIFOScheduler):
    """Runs trials to their end, in the order in which they were asked for.

    It finds the first one that waits without a look at all that have ended, which Tune's own takes at every step.
    """

    _first = 0

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Returns the first trial that waits, if there is one."""
        trials = tune_controller.get_trials()
        while self._first < len(trials) and trials[self._first].is_finished():
            self._first += 1
        places = range(self._first, len(trials))
        return next((trials[i] for i in places if trials[i].status == Trial.PENDING), None)


class SparingASHA(InOrder, ASHAScheduler):
    """ASHA, but a protected trial fills the rungs and is never stopped before its end.

    Each group of trials has rungs of its own: noise that rises and noise that falls learn at different speeds.
    """

    def __init__(self, steps: int, grace_steps: int) -> None:
        self._settings: dict[str, Any] = {
            "time_attr": "step",
            "metric": METRIC,
            "mode": "min",
            "max_t": steps,
            "grace_period": grace_steps,
            "reduction_factor": REDUCTION_FACTOR,
            "stop_last_trials": False,  # the last evaluation is the end anyway
        }
        super().__init__(**self._settings)
        self._steps = steps
        self._groups = {"": self._brackets[0]}  # Tune's class of rungs
        self._past: dict[int, dict[int, float]] = {}
        self._ids: dict[int, str] = {}  # Tune's newest of each trial, by its number

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Takes a trial; one begun again passed its rungs before, at the losses that it had then."""
        super().on_trial_add(tune_controller, trial)
        number, bracket = trial.config["number"], self._bracket(trial.config["group"])
        self._trial_info[trial.trial_id] = bracket
        self._fill_rungs(bracket, trial, self._past.pop(number, {}))
        before, self._ids[number] = self._ids.get(number), trial.trial_id
        for _, recorded in bracket._rungs:
            if before in recorded:
                recorded[trial.trial_id] = recorded.pop(before)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Returns whether the trial goes on."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if trial.config["protected"] and result.get("step", 0) < self._steps:
            return TrialScheduler.CONTINUE
        return decision

    def remember(self, study: optuna.Study, group_of: Callable[[FrozenTrial], str] = lambda _: "") -> None:
        """Fills the rungs with what earlier trials of the study reached, and keeps what unfinished ones did.

        Args:
            group_of: returns the group of a trial.
        """
        self._past = {trial.number: trial.intermediate_values for trial in unfinished(study)}
        for trial in finished(study):
            twin = SimpleNamespace(trial_id=f"past-{trial.number}")  # the rungs look at no more
            self._fill_rungs(self._bracket(group_of(trial)), twin, trial.intermediate_values)

    def _bracket(self, group: str) -> Any:
        if group not in self._groups:
            (self._groups[group],) = ASHAScheduler(**self._settings)._brackets
        return self._groups[group]

    def _fill_rungs(self, bracket: Any, trial: Any, values: dict[int, float]) -> None:
        for step, value in sorted(values.items()):
            bracket.on_result(trial, step, -value)
