"""The Optuna study that says which trials exist and how each ended: where it is stored, and its own terms."""

from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from study.base.errors import UserError, first_line
from study.base.names import REASON as REASON  # an Optuna trial and its MLflow run say it under one name
from study.base.names import Outcome
from study.base.uris import redacted, sqlite_path
from study.records.journal import open_journal

STATES = {
    Outcome.COMPLETED: TrialState.COMPLETE,
    Outcome.STOPPED_EARLY: TrialState.PRUNED,
    Outcome.FAILED: TrialState.FAIL,
}
KNOWN = "known_good"
"""A user attribute of an Optuna trial, beside REASON and the parts of its regularizer: a known good one's name."""


def open_storage(
    database: str | None, journal: Path, check: Callable[[], None] | None = None
) -> optuna.storages.BaseStorage:
    """Opens the storage of an Optuna study: a database by its URL, or the journal in the study's folder.

    `check` is called before each write to the journal; it does not return if another session holds the study's lock.
    """
    return open_journal(journal, check) if database is None else open_database(database)


def open_database(url: str) -> optuna.storages.BaseStorage:
    """Opens an Optuna database. Raises UserError if it does not work."""
    try:
        return optuna.storages.RDBStorage(url)
    except Exception as error:  # whatever the database's driver raises, it is the URL that does not work
        raise UserError(
            f"--optuna-storage {redacted(url)} cannot be used ({first_line(error)}): give a database URL"
        ) from None


def check_database(url: str) -> None:
    """Looks whether an Optuna database can be used, without creating an SQLite file. Raises UserError."""
    path = sqlite_path(url)
    if path is None or path.exists():
        open_database(url)
    elif not path.parent.is_dir():
        raise UserError(f"--optuna-storage {url} cannot be used: there is no folder {path.parent}")


def loss_of(trial: FrozenTrial) -> float | None:
    """Returns the best_val_loss of a completed trial, the first of its objectives; None for a trial without values."""
    return trial.values[0] if trial.values else None


def seconds_of(trial: FrozenTrial) -> float | None:
    """Returns the training time of a completed trial where it is the second objective, else None."""
    return trial.values[1] if trial.values and len(trial.values) > 1 else None


def unfinished(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trials that were begun and have no end: those that a resumed study goes on with."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trials that have ended, however they did."""
    return study.get_trials(deepcopy=False, states=tuple(STATES.values()))
