"""ASHA that spares the known good configurations and remembers a study that it did not see."""

from types import SimpleNamespace
from typing import Any, cast

import optuna
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from study.searcher import METRIC, finished

REDUCTION_FACTOR = 3
"""One trial in three passes a rung."""


class SparingASHA(ASHAScheduler):
    """ASHA, but a protected trial fills the rungs and is never stopped before its end."""

    def __init__(self, steps: int, grace_steps: int) -> None:
        super().__init__(
            time_attr="step",
            metric=METRIC,
            mode="min",
            max_t=steps,
            grace_period=grace_steps,
            reduction_factor=REDUCTION_FACTOR,
            stop_last_trials=False,  # the last evaluation is the end anyway
        )
        self._steps = steps

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Returns whether the trial goes on."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if trial.config["protected"] and result.get("step", 0) < self._steps:
            return TrialScheduler.CONTINUE
        return decision

    def remember(self, study: optuna.Study) -> None:
        """Fills the rungs with what earlier trials of the study reached."""
        for past in finished(study):
            twin = cast(Any, SimpleNamespace(trial_id=f"past-{past.number}"))  # the rungs look at no more
            for step, value in sorted(past.intermediate_values.items()):
                self._brackets[0].on_result(twin, step, -value)
