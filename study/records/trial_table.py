"""All evaluations of a study as one table, which trials.parquet holds."""

from typing import Any

import optuna

from study.base.names import Outcome
from study.records.optuna_study import STATES
from study.records.study_layout import StudyFolder


def table(
    folder: StudyFolder, study: optuna.Study, unfinished: str | None = Outcome.STOPPED_EARLY.value
) -> list[dict[str, Any]]:
    """Returns one row for each evaluation of the trials, with how each trial ended.

    `unfinished` is what is said of one without an end: in a session that is over, it was stopped early.
    """
    outcomes = {state: outcome.value for outcome, state in STATES.items()}
    return [
        row | {"outcome": outcomes.get(trial.state, unfinished)}
        for trial in study.get_trials(deepcopy=False)
        for row in folder.trial(trial.number).rows()
    ]
