"""Reads the data of a report from a study's folder or from MLflow alone. It writes and locks nothing there."""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
from optuna.storages import InMemoryStorage

from study.base.errors import UserError, first_line
from study.base.names import OUTCOME, TRIAL, TRIALS_PER_GPU, Outcome, Role
from study.base.regularizers import parts_of
from study.base.uris import HIDDEN, recalled, redacted, sqlite_path
from study.confirm import verdict_file
from study.records.optuna_study import KNOWN, REASON, STATES, open_database, open_storage
from study.records.replicates import replicate_losses
from study.records.study_layout import StudyConfig, StudyFolder
from study.records.trial_table import table
from study.report.trials import Row, TrialRecord
from study.tracking.reader import TrackedStudy
from study.training.evaluation_rows import read_parquet

CONFIRMATION_FILES = ("evaluations.parquet", verdict_file.NAME)
FILES = frozenset({"study.yaml", "study.copy.yaml", "optuna.journal", "metrics.jsonl", *CONFIRMATION_FILES})
"""The files that a report reads from a study's folder."""


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The results of study.confirm: its verdict.json, and the evaluations of all arms."""

    verdict: dict[str, Any]
    rows: list[Row]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The data of a report.

    Attributes:
        rows: the rows of trials.parquet; the outcome of a trial that has not ended is None.
        records: each trial without its evaluations.
        study: the Optuna study; None if it is not available.
        facts: commit and versions, where known.
        pages: the address of each trial's MLflow page, where there is a server.
    """

    config: StudyConfig
    rows: list[dict[str, Any]]
    records: dict[int, TrialRecord]
    study: optuna.Study | None
    confirmation: Confirmation | None
    facts: dict[str, str]
    pages: dict[int, str]


def tracked_study(folder: StudyFolder | None, name: str, uri: str | None) -> TrackedStudy | None:
    """Finds a study in MLflow: at `uri`, or at the URI in the study's config.

    Args:
        folder: the study's folder; None to read the study from MLflow alone.

    Raises:
        UserError: if the study is not at `uri`, or if there is no folder and no study in MLflow. With a folder and
            without `uri`, the report does without MLflow.
    """
    if folder is None or uri is not None:
        return TrackedStudy(uri, name)
    was = folder.read_config().tracking_uri
    try:
        return TrackedStudy(recalled(was, folder.path), name)
    except UserError as error:
        print(f"warning: the report has no links, and is not kept in MLflow: {error}", file=sys.stderr)
        return None


def from_folder(folder: StudyFolder, database: str | None, tracked: TrackedStudy | None) -> Source:
    """Reads a study from its folder, also while the study runs.

    Args:
        database: the URL of the Optuna database, if the config does not store it.
        tracked: the study in MLflow, for commit, versions and links.

    Raises:
        UserError: if the config is damaged or the Optuna study is missing.
    """
    config = folder.read_config()
    study = _load_optuna_study(config, folder.journal, database)
    return of_study(
        config, folder, study, facts=tracked.tags if tracked else {}, pages=tracked.run_pages() if tracked else {}
    )


def of_study(
    config: StudyConfig, folder: StudyFolder, study: optuna.Study, *, facts: dict[str, str], pages: dict[int, str]
) -> Source:
    """Reads a study whose Optuna study is open."""
    return Source(
        config=config,
        rows=table(folder, study, unfinished=None),
        records=_optuna_records(study),
        study=study,
        confirmation=_read_confirmation(folder.path / "confirmation"),
        facts=facts,
        pages=pages,
    )


def from_mlflow(tracked: TrackedStudy, database: str | None) -> Source:
    """Reads a study from the artifacts and tags of its runs. Raises UserError if they do not exist yet."""
    with tempfile.TemporaryDirectory() as name:
        folder = StudyFolder(Path(name), tracked.name)
        folder.path.mkdir()
        wanted = (folder.config.name, folder.table.name)
        found = tracked.download([*wanted, folder.journal.name], folder.path)
        if not found.issuperset(wanted):
            raise UserError(
                f"study {tracked.name} has no trials.parquet in MLflow: it still runs, or it was killed; "
                "make the report on the machine with its folder (--storage)"
            )
        config = folder.read_config()
        try:
            study = _load_optuna_study(config, folder.journal, database)
        except UserError:
            if database is not None:
                raise
            study = None  # its database may be unreachable: the report leaves out what only Optuna knows
        confirmation = folder.path / "confirmation"
        confirmation.mkdir()
        tracked.download(CONFIRMATION_FILES, confirmation, Role.CONFIRMATION)
        return Source(
            config=config,
            rows=read_parquet(folder.table),
            records=_mlflow_records(tracked) if study is None else _optuna_records(study),
            study=study,
            confirmation=_read_confirmation(confirmation),
            facts=tracked.tags,
            pages=tracked.run_pages(),
        )


def _load_optuna_study(config: StudyConfig, journal: Path, database: str | None) -> optuna.Study:
    url = database or recalled(config.optuna_storage, journal.parent)
    if database is None and config.optuna_storage == HIDDEN:
        raise UserError("the --optuna-storage of the study held a password, which is not kept: give it again")
    path = journal if url is None else sqlite_path(url)
    if path is not None and not path.exists():  # opening it would make it
        raise UserError(f"study {config.name} has lost its Optuna study: there is no {path}")
    storage = open_storage(None, journal) if url is None else open_database(url)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:  # a copy, because a running study changes its storage meanwhile
        optuna.copy_study(from_study_name=config.name, from_storage=storage, to_storage=(copy := InMemoryStorage()))
        return optuna.load_study(study_name=config.name, storage=copy)
    except KeyError:
        raise UserError(f"there is no study {config.name} in {redacted(url or str(journal))}") from None


def _optuna_records(study: optuna.Study) -> dict[int, TrialRecord]:
    outcomes = {state: outcome for outcome, state in STATES.items()}
    replicates = replicate_losses(study)
    return {
        trial.number: TrialRecord(
            outcome=outcomes.get(trial.state),
            **parts_of(trial.user_attrs),
            reason=trial.user_attrs.get(REASON),
            known_good=trial.user_attrs.get(KNOWN),
            trials_per_gpu=trial.user_attrs.get(TRIALS_PER_GPU, 1),
            replicates=tuple(replicates.get(trial.number, ())),
        )
        for trial in study.get_trials(deepcopy=False)
        if trial.state is not optuna.trial.TrialState.WAITING
    }


def _mlflow_records(tracked: TrackedStudy) -> dict[int, TrialRecord]:
    replicates = tracked.replicates()
    return {
        (number := int(run.data.tags[TRIAL])): TrialRecord(
            outcome=Outcome(run.data.tags[OUTCOME]) if OUTCOME in run.data.tags else None,
            reason=run.data.tags.get(REASON),
            known_good=run.data.tags.get(KNOWN),
            trials_per_gpu=int(run.data.tags.get(TRIALS_PER_GPU, 1)),
            replicates=tuple(replicates.get(number, ())),
        )
        for run in tracked.trials()
    }


def _read_confirmation(folder: Path) -> Confirmation | None:
    evaluations = folder / CONFIRMATION_FILES[0]
    verdict = verdict_file.read_verdict(folder)
    if verdict is None or not evaluations.exists():
        return None
    try:
        return Confirmation(verdict=verdict, rows=pq.read_table(evaluations).to_pylist())
    except pa.ArrowInvalid as error:
        raise UserError(f"{evaluations} is damaged ({first_line(error)}): run study.confirm again") from None
