"""The runs of a search: the trials of an Optuna study, which is the truth about them."""

import math
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from search_spaces import KNOWN_GOOD, SPACES
from study.base.names import LOSS, METRIC, TRIALS_PER_GPU, Key, Outcome
from study.base.regularizers import SCHEDULE, as_regularizer, family_kind, parts_of
from study.engine.equal_shares import EqualShares, group_of
from study.engine.recorder import Recorder
from study.engine.run_source import Ending, RunSource, Signal
from study.engine.run_spec import RunSpec
from study.engine.sampler import make_sampler
from study.engine.worker_messages import DIVERGED
from study.records.optuna_study import KNOWN, REASON, STATES, finished, unfinished
from study.records.study_layout import trial_place
from study.records.uploads import UploadQueue
from study.training.task_config import RunConfig

OUTCOMES = {state: outcome for outcome, state in STATES.items()}


def open_optuna_study(
    storage: optuna.storages.BaseStorage, name: str, sampler: str, seed: int, objectives: str = LOSS
) -> optuna.Study:
    """Opens an Optuna study, anew or again, with a sampler that has not been used yet."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    directions = [StudyDirection.MINIMIZE] * len(objectives.split(","))
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    seed += len(study.get_trials(deepcopy=False))  # a resumed study must not draw the same numbers again
    study.sampler = make_sampler(sampler, seed)
    return study


def ask_known_good_first(study: optuna.Study, space: str) -> None:
    """Lets a study in which no trial has begun begin with its space's known good configurations."""
    trials = study.get_trials(deepcopy=False)
    if all(trial.state is TrialState.WAITING for trial in trials):
        waiting = {trial.user_attrs.get(KNOWN) for trial in trials}  # a session may have died while it put them there
        for name, parameters in KNOWN_GOOD[space].items():
            if name not in waiting:
                study.enqueue_trial(parameters, user_attrs={KNOWN: name})


class OptunaRuns(RunSource):
    """Gives the trials that an Optuna study asks for, and tells the study how each went.

    Trials that were found unfinished are given first, as they are. Trials that are neither completed, nor stopped by
    the scheduler, nor failed when a session ends, stay unfinished, for --resume.

    Args:
        trials: how many are given in all.
        uploads: sends the study to the object store: no trial is given whose number the store does not know.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: str,
        training: RunConfig,
        trials: float = math.inf,
        uploads: UploadQueue | None = None,
        trials_per_gpu: int = 1,
    ) -> None:
        self._study, self._space, self._training = study, space, training
        self._left, self._uploads, self._trials_per_gpu = trials, uploads, trials_per_gpu
        self._shares = EqualShares.of_space(space)
        self._asked: tuple[optuna.Trial, int] | None = None  # not given yet
        self._again = deque(unfinished(study))
        self._seen: dict[int, Mapping[str, Any]] = {}
        self._trials: dict[Key, optuna.Trial] = {}

    def next(self) -> RunSpec | Signal:
        """See RunSource."""
        if self._left <= 0:
            return Signal.DONE
        if self._asked is None:
            self._asked = self._ask(), self._uploads.ask() if self._uploads else 0
        trial, asked = self._asked
        if self._uploads and not self._uploads.has(asked):
            return Signal.WAIT
        self._asked = None
        self._left -= 1
        self._trials[trial.number] = trial
        group = group_of(self._shares, trial.params)
        return replace(trial_spec(self._training, trial.number, trial.user_attrs), group=group)

    def give_back(self, spec: RunSpec) -> None:
        """See RunSource."""
        self._again.extendleft(trial for trial in unfinished(self._study) if trial.number == spec.key)
        self._left += 1

    def seen(self, key: Key) -> Mapping[str, Any]:
        """See RunSource."""
        return self._seen.get(int(key), {})

    def progressed(self, key: Key, result: Mapping[str, Any]) -> None:
        """See RunSource."""
        trial = self._trials[key]
        if len(self._study.directions) == 1:
            trial.report(result[METRIC], result["step"])
        else:  # Trial.report refuses, since Optuna's pruners need one objective; the record is the same
            self._study._storage.set_trial_intermediate_value(trial._trial_id, result["step"], result[METRIC])

    def ended(self, key: Key, ending: Ending) -> None:
        """See RunSource."""
        trial = self._trials[key]
        if ending.reason is not None:
            trial.set_user_attr(REASON, ending.reason)
        if ending.diverged:
            trial.set_user_attr(DIVERGED, True)
        values = None
        if ending.outcome is Outcome.COMPLETED:
            assert ending.value is not None
            values = [ending.value, ending.seconds][: len(self._study.directions)]
        self._study.tell(trial, values, state=STATES[ending.outcome])  # type: ignore[arg-type]

    def _ask(self) -> optuna.Trial:
        known = self._again.popleft() if self._again else None
        if known is None and self._shares is not None:
            self._shares.enqueue_next(self._study)
        trial = self._study.ask() if known is None else optuna.Trial(self._study, known._trial_id)
        if known is not None and (past := known.intermediate_values):
            self._seen[trial.number] = {"step": max(past), METRIC: past[max(past)]}
        if SCHEDULE not in trial.user_attrs:  # a new one, or its driver died before it kept this: the same parameters
            suggested = as_regularizer(SPACES[self._space](trial))
            for name in sorted(suggested, key=lambda name: name == SCHEDULE):  # with the schedule all is there
                trial.set_user_attr(name, suggested[name])
        if self._trials_per_gpu > trial.user_attrs.get(TRIALS_PER_GPU, 1):
            trial.set_user_attr(TRIALS_PER_GPU, self._trials_per_gpu)
        return trial


def trial_spec(training: RunConfig, number: int, attributes: Mapping[str, Any]) -> RunSpec:
    """Returns a trial as a run, from the user attributes of Optuna's trial."""
    regularizer, known_good = parts_of(attributes), attributes.get(KNOWN)
    family = family_kind(regularizer)
    return RunSpec(
        key=number,
        title=f"trial {number}",
        name=f"trial-{number}-{regularizer[SCHEDULE]['kind'] if family == 'standard' else family}",
        regularizer=regularizer,
        training=training,
        place=trial_place(number),
        tags={"known_good": known_good} if known_good else {},
        protected=known_good is not None,
    )


def describe_finished(study: optuna.Study, training: RunConfig, recorder: Recorder) -> None:
    """Describes the trials that have ended."""
    for trial in finished(study):
        if SCHEDULE in trial.user_attrs:
            recorder.describe_ended(
                trial_spec(training, trial.number, trial.user_attrs),
                Ending(outcome=OUTCOMES[trial.state], reason=trial.user_attrs.get(REASON)),
                _ms(trial.datetime_start),
                _ms(trial.datetime_complete),
                max(trial.intermediate_values, default=-1),
            )


def pause_unfinished(study: optuna.Study, training: RunConfig, recorder: Recorder) -> None:
    """Closes the trials that have no end yet, and that a resumed study goes on with."""
    for trial in unfinished(study):
        if SCHEDULE in trial.user_attrs:
            recorder.pause(trial_spec(training, trial.number, trial.user_attrs))


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
