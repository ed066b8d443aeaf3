"""The trials of a search as runs."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from study.engine.recorder import Recorder
from study.engine.run_spec import RunSpec
from study.records.optuna_study import KNOWN, REASON, SCHEDULE, STATES, finished, unfinished
from study.records.study_layout import StudyConfig, trial_place

OUTCOMES = {state: outcome for outcome, state in STATES.items()}


def trial_spec(config: StudyConfig, number: int, schedule: Mapping[str, Any], known_good: str | None) -> RunSpec:
    """Returns a trial as a run."""
    return RunSpec(
        key=number,
        title=f"trial {number}",
        name=f"trial-{number}-{schedule['kind']}",
        schedule=schedule,
        training=config.training,
        place=trial_place(number),
        tags={"known_good": known_good} if known_good else {},
    )


def describe_finished(config: StudyConfig, study: optuna.Study, recorder: Recorder) -> None:
    """Describes the trials that have ended."""
    for trial in finished(study):
        if SCHEDULE in trial.user_attrs:
            recorder.describe_ended(
                _spec(config, trial),
                OUTCOMES[trial.state],
                trial.user_attrs.get(REASON),
                _ms(trial.datetime_start),
                _ms(trial.datetime_complete),
                max(trial.intermediate_values, default=-1),
            )


def pause_unfinished(config: StudyConfig, study: optuna.Study, recorder: Recorder) -> None:
    """Closes the trials that have no end yet, and that a resumed study goes on with."""
    for trial in unfinished(study):
        if SCHEDULE in trial.user_attrs:
            recorder.pause(_spec(config, trial))


def _spec(config: StudyConfig, trial: FrozenTrial) -> RunSpec:
    return trial_spec(config, trial.number, trial.user_attrs[SCHEDULE], trial.user_attrs.get(KNOWN))


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
