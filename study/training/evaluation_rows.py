"""Evaluations as rows: the one form that metrics.jsonl and trials.parquet share."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from study.base.files import atomic_path
from study.base.regularizers import DEFAULTS, SCHEDULE, as_columns

if TYPE_CHECKING:  # the process that sends to MLflow reads evaluations, and does not import torch
    from study.training.trainable import Trainable

METRICS_FILE = "metrics.jsonl"
"""A run's evaluations, in its folder."""
SCHEMA = pa.schema(
    [
        ("study", pa.string()),
        ("trial", pa.int64()),
        ("kind", pa.string()),
        ("schedule", pa.string()),  # JSON
        ("step", pa.int64()),
        ("progress", pa.float64()),
        ("dropout_rate", pa.float64()),
        ("train_loss", pa.float64()),
        ("val_loss", pa.float64()),
        ("best_val_loss", pa.float64()),
        ("learning_rate", pa.float64()),
        ("tokens_per_second", pa.float64()),
        ("train_seconds", pa.float64()),
        ("outcome", pa.string()),
        ("seed", pa.int64()),
        ("family", pa.string()),  # JSON
        ("depth", pa.string()),  # JSON
        ("size_rule", pa.string()),  # JSON
    ]
)
TASK_METRICS = "metrics"
"""The key that only evaluations of a task with more metrics have: a mapping, in trials.parquet as JSON."""
_ADDED = {name: json.dumps(value) for name, value in DEFAULTS.items()}
"""The columns that evaluations of earlier versions lack: what was dropped then."""
METRICS = (
    "train_loss",
    "val_loss",
    "best_val_loss",
    "dropout_rate",
    "learning_rate",
    "tokens_per_second",
    "train_seconds",
)
"""The columns that are metrics: the same names in Tune, Optuna, MLflow, files and report."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Whose rows these are; a run outside a study has no study and no trial."""

    study: str | None = None
    trial: int | None = None


def rows(trainer: "Trainable", labels: Labels) -> list[dict[str, Any]]:
    """Returns one row an evaluation so far; `outcome` is completed in all rows of a run that has reached its end."""
    regularizer = trainer.regularizer.to_dict()
    common = {
        "study": labels.study,
        "trial": labels.trial,
        "kind": regularizer[SCHEDULE]["kind"],
        **as_columns(regularizer),
        "outcome": "completed" if trainer.step == trainer.config.steps else None,
        "seed": trainer.config.seed,
    }
    return [_known(common | progress.to_dict()) for progress in trainer.history]


def metrics_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Returns an evaluation's metrics by name, those of its task too, without those that its task does not tell."""
    told: dict[str, float] = {name: row[name] for name in METRICS if row[name] is not None}
    return told | dict(row.get(TASK_METRICS, {}))


def best_row(evaluations: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns a run's evaluation with the lowest val_loss; of equal ones the first. Its step is the run's best_step."""
    return min(evaluations, key=lambda row: row["val_loss"])


def parse_rows(lines: Iterable[bytes]) -> Iterator[dict[str, Any] | None]:
    """Yields the evaluation of each line of `metrics.jsonl`, None for a damaged line."""
    for line in lines:
        try:
            row = _ADDED | json.loads(line)
            yield _known(row) if row.keys() - {TASK_METRICS} == set(SCHEMA.names) else None
        except (ValueError, TypeError):
            yield None


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of a trials.parquet. Raises OSError, or pyarrow's ArrowException if it is damaged."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return [
        _ADDED | row | ({TASK_METRICS: json.loads(row[TASK_METRICS])} if TASK_METRICS in row else {}) for row in rows
    ]


def write_parquet(table: list[dict[str, Any]], path: Path) -> None:
    """Writes rows as trials.parquet."""
    schema = SCHEMA
    if any(TASK_METRICS in row for row in table):
        schema = SCHEMA.append(pa.field(TASK_METRICS, pa.string()))
        table = [row | {TASK_METRICS: json.dumps(row.get(TASK_METRICS, {}))} for row in table]
    with atomic_path(path) as part:
        pq.write_table(pa.Table.from_pylist(table, schema=schema), part)


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is known of an evaluation, in the order of the columns."""
    return {name: row[name] for name in (*SCHEMA.names, TASK_METRICS) if name in SCHEMA.names or row.get(name)}
