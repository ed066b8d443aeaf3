"""Where a report's numbers come from: a study's folder, or MLflow alone. Nothing is written there, nor locked."""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
from optuna.storages import InMemoryStorage

from study.base.errors import UserError
from study.base.names import OUTCOME, TRIAL, TRIALS_PER_GPU, Outcome
from study.base.uris import HIDDEN, recalled, redacted, sqlite_path
from study.records.optuna_study import KNOWN, REASON, SCHEDULE, STATES, open_database, open_storage
from study.records.study_layout import StudyConfig, StudyFolder
from study.records.trial_table import table
from study.report.data import Note, Row
from study.tracking.reader import TrackedStudy

CONFIRMATION_FILES = ("evaluations.parquet", "verdict.json")
FILES = frozenset({"study.yaml", "study.copy.yaml", "optuna.journal", "metrics.jsonl", *CONFIRMATION_FILES})
"""What a report reads of a study's folder."""
VERDICT_FORMAT = "dynamic-dropout-verdict/1"
CONFIRMATION_ROLE = "confirmation"


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """What study.confirm found: its verdict.json, and the evaluations of all arms."""

    verdict: dict[str, Any]
    rows: list[Row]


@dataclass(frozen=True, kw_only=True)
class Source:
    """All that a report is made from.

    Attributes:
        rows: the evaluations, as trials.parquet has them; the outcome of a trial without an end is None.
        notes: what is known of each trial beside them.
        study: Optuna's record; None if it is not at hand.
        facts: commit and versions, as far as known.
        pages: the address of each trial's MLflow page, where there is a server.
    """

    config: StudyConfig
    rows: list[dict[str, Any]]
    notes: dict[int, Note]
    study: optuna.Study | None
    confirmation: Confirmation | None
    facts: dict[str, str]
    pages: dict[int, str]


def tracked_study(folder: StudyFolder | None, name: str, uri: str | None) -> TrackedStudy | None:
    """Finds a study in MLflow: at `uri`, or where its config says that it was.

    Args:
        folder: of the study; None if it is to be read from MLflow alone.

    Raises:
        UserError: if it is not at `uri`, or, without a folder, nowhere. With one, the report does without MLflow.
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
    """Reads a study where it was run, while it runs too.

    Args:
        database: the URL of its Optuna database, if its config does not keep it.
        tracked: the study in MLflow, for what only MLflow knows.

    Raises:
        UserError: if its config is damaged, or its Optuna study is not to be found.
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
        notes=_notes(study),
        study=study,
        confirmation=_read_confirmation(folder.path / "confirmation"),
        facts=facts,
        pages=pages,
    )


def from_mlflow(tracked: TrackedStudy, database: str | None) -> Source:
    """Reads a study from what its runs carry. Raises UserError if that is not there yet."""
    with tempfile.TemporaryDirectory() as name:
        folder = StudyFolder(Path(name), tracked.name)
        folder.path.mkdir()
        wanted = (folder.config.name, folder.table.name)
        found = tracked.download([*wanted, folder.journal.name], folder.path)
        if not found.issuperset(wanted):
            raise UserError(
                f"study {tracked.name} has no trials.parquet in MLflow: it runs still, or was killed; "
                "make the report where its folder is (--storage)"
            )
        config = folder.read_config()
        try:
            study = _load_optuna_study(config, folder.journal, database)
        except UserError:
            if database is not None:
                raise
            study = None  # its database may be out of reach from here: the rest of the report does without
        confirmation = folder.path / "confirmation"
        confirmation.mkdir()
        tracked.download(CONFIRMATION_FILES, confirmation, CONFIRMATION_ROLE)
        return Source(
            config=config,
            rows=pq.read_table(folder.table).to_pylist(),
            notes=_tracked_notes(tracked) if study is None else _notes(study),
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
    try:  # a copy: the study may be written meanwhile, and its file go away
        optuna.copy_study(from_study_name=config.name, from_storage=storage, to_storage=(copy := InMemoryStorage()))
        return optuna.load_study(study_name=config.name, storage=copy)
    except KeyError:
        raise UserError(f"there is no study {config.name} in {redacted(url or str(journal))}") from None


def _notes(study: optuna.Study) -> dict[int, Note]:
    outcomes = {state: outcome for outcome, state in STATES.items()}
    return {
        trial.number: Note(
            outcome=outcomes.get(trial.state),
            schedule=trial.user_attrs.get(SCHEDULE),
            reason=trial.user_attrs.get(REASON),
            known_good=trial.user_attrs.get(KNOWN),
            trials_per_gpu=trial.user_attrs.get(TRIALS_PER_GPU, 1),
        )
        for trial in study.get_trials(deepcopy=False)
        if trial.state is not optuna.trial.TrialState.WAITING
    }


def _tracked_notes(tracked: TrackedStudy) -> dict[int, Note]:
    return {
        int(run.data.tags[TRIAL]): Note(
            outcome=Outcome(run.data.tags[OUTCOME]) if OUTCOME in run.data.tags else None,
            reason=run.data.tags.get(REASON),
            known_good=run.data.tags.get(KNOWN),
            trials_per_gpu=int(run.data.tags.get(TRIALS_PER_GPU, 1)),
        )
        for run in tracked.trials()
    }


def _read_confirmation(folder: Path) -> Confirmation | None:
    evaluations, verdict = (folder / name for name in CONFIRMATION_FILES)
    if not (evaluations.exists() and verdict.exists()):
        return None
    try:
        found = json.loads(verdict.read_text(encoding="utf-8"))
        if found["format"] != VERDICT_FORMAT:
            raise UserError(f"{verdict} is of format {found['format']!r:.80}, and this tool reads {VERDICT_FORMAT}")
        return Confirmation(verdict=found, rows=pq.read_table(evaluations).to_pylist())
    except (KeyError, TypeError, json.JSONDecodeError, pa.ArrowInvalid) as error:
        raise UserError(f"{folder} is damaged ({type(error).__name__}): run study.confirm again") from None
