"""Which trials of a search are trained with more seeds, and that part of a session."""

import optuna
from optuna.trial import TrialState

from model.regularizer import Regularizer
from study.base.names import Key, Outcome
from study.base.ranking import best_first
from study.base.regularizers import parts_of
from study.confirm.arms import canonical_regularizer
from study.engine.display import Display
from study.engine.replicate_runs import ReplicateRuns
from study.engine.session import Session
from study.records.optuna_study import finished, loss_of
from study.records.replicates import Replicate, kept_replicates, replicates_of
from study.records.study_layout import StudyConfig


def wanted_replicates(study: optuna.Study, config: StudyConfig) -> list[Replicate]:
    """Returns the replicates of a study whose trials have all ended, as they should be: of the best trial first.

    Of trials that drop the same, only the best is trained again: the others would give the same losses.
    """
    completed = [trial for trial in finished(study) if trial.state is TrialState.COMPLETE]
    distinct: dict[Regularizer, int] = {}
    for trial in best_first(completed, loss=loss_of, number=lambda trial: trial.number):
        regularizer = Regularizer.from_dict(parts_of(trial.user_attrs))
        distinct.setdefault(canonical_regularizer(regularizer), trial.number)
    best = list(distinct.values())[: config.replicate]
    return [mine for number in best for mine in replicates_of(number, config.seed)]


def lacking_replicates(study: optuna.Study, config: StudyConfig) -> list[Replicate]:
    """Returns the replicates that have no end yet; none as long as trials have none: the best are not known yet."""
    if len(finished(study)) < config.trials:
        return []
    kept = kept_replicates(study)
    wanted = (kept.get(mine.name, mine) for mine in wanted_replicates(study, config))
    return [mine for mine in wanted if mine.outcome is None]


def replicate_outcomes(study: optuna.Study) -> dict[Key, Outcome]:
    """Returns how the replicates ended, by name."""
    return {name: mine.outcome for name, mine in kept_replicates(study).items() if mine.outcome is not None}


def train_replicates(study: optuna.Study, config: StudyConfig, session: Session, display: Display) -> None:
    """Trains the replicates that the study lacks, unless the session is to stop."""
    lacking = lacking_replicates(study, config)
    if lacking and not session.stop.stop_all():
        session.run_set(ReplicateRuns(study, config.training, lacking), display)
