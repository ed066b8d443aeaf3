"""The replicates of a study as runs of the engine."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import optuna

from study.base.names import SEED, TRIAL, Key
from study.base.regularizers import parts_of
from study.engine.recorder import Recorder
from study.engine.run_source import Ending, RunSource, Signal
from study.engine.run_spec import RunSpec
from study.records.replicates import Replicate, kept_replicates
from study.training.task_config import RunConfig


class ReplicateRuns(RunSource):
    """Gives replicates, and tells the Optuna study how each went.

    A replicate that has no end when a session ends stays without one, for --resume.
    """

    def __init__(self, study: optuna.Study, training: RunConfig, replicates: Iterable[Replicate]) -> None:
        self._study, self._training = study, training
        self._left = deque(replicates)
        self._begun: dict[Key, Replicate] = {}

    def next(self) -> RunSpec | Signal:
        """See RunSource."""
        if not self._left:
            return Signal.DONE
        mine = self._left.popleft()
        if mine.name not in self._begun:
            mine.keep(self._study)
        self._begun[mine.name] = mine
        return replicate_spec(self._study, self._training, mine)

    def give_back(self, spec: RunSpec) -> None:
        """See RunSource."""
        self._left.appendleft(self._begun[spec.key])

    def progressed(self, key: Key, result: Mapping[str, Any]) -> None:
        """See RunSource."""
        self._begun[key] = replace(self._begun[key], step=result["step"])

    def ended(self, key: Key, ending: Ending) -> None:
        """See RunSource."""
        how = {"outcome": ending.outcome, "best_val_loss": ending.value, "reason": ending.reason}
        replace(self._begun[key], **how).keep(self._study)  # type: ignore[arg-type]


def replicate_spec(study: optuna.Study, training: RunConfig, mine: Replicate) -> RunSpec:
    """Returns a replicate as a run: its trial's regularizer and training config, but for the seed."""
    trial = study.get_trials(deepcopy=False)[mine.trial]
    return RunSpec(
        key=mine.name,
        title=f"trial {mine.trial} seed {mine.seed}",
        name=mine.name,
        regularizer=parts_of(trial.user_attrs),
        training=replace(training, seed=mine.seed),
        place=mine.place,
        tags={TRIAL: str(mine.trial), SEED: str(mine.seed)},
        protected=True,
    )


def describe_replicates(study: optuna.Study, training: RunConfig, recorder: Recorder) -> None:
    """Describes the replicates that have ended."""
    for mine in kept_replicates(study).values():
        if mine.outcome is not None:
            ending = Ending(outcome=mine.outcome, reason=mine.reason)
            recorder.describe_ended(replicate_spec(study, training, mine), ending, step=mine.step)


def pause_replicates(study: optuna.Study, training: RunConfig, recorder: Recorder) -> None:
    """Closes the replicates that have no end yet, and that a resumed study goes on with."""
    for mine in kept_replicates(study).values():
        if mine.outcome is None:
            recorder.pause(replicate_spec(study, training, mine))
