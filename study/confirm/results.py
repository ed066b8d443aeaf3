"""The runs of a confirmation as two tables: one row an evaluation, and one row a run."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from model.regularizer import Regularizer
from study.base.files import atomic_path
from study.base.regularizers import as_columns
from study.training.evaluation_rows import SCHEMA, best_row
from study.training.measures_file import Measures
from study.training.run_folder import RunFolder
from study.training.schedule_file import read_schedule_file
from study.training.task_config import TaskConfig

EVALUATIONS = pa.schema([*SCHEMA, ("arm", pa.string()), ("full_val_loss", pa.float64())])
NUMBERS = (
    "best_val_loss",
    "best_step",
    "final_val_loss",
    "test_loss",
    "best_full_val_loss",
    "final_train_loss",
    "train_loss_dropout_off",
    "train_seconds",
    "seconds_to_baseline",
    "sampling_tokens_per_second",
)
"""The compared numbers of a run; test_loss is measured on the weights of best_step."""
RUNS = pa.schema(
    [
        ("arm", pa.string()),
        ("seed", pa.int64()),
        ("kind", pa.string()),
        ("schedule", pa.string()),  # JSON
        ("outcome", pa.string()),
        ("reason", pa.string()),
        *((name, pa.int64() if name == "best_step" else pa.float64()) for name in NUMBERS),
        ("run_id", pa.string()),
        ("family", pa.string()),  # JSON
        ("depth", pa.string()),  # JSON
        ("size_rule", pa.string()),  # JSON
    ]
)
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Results:
    """The tables of a confirmation: evaluations and runs of the arms, and runs of the constant rate's sweep."""

    evaluations: list[Row]
    runs: list[Row]
    sweep: list[Row]

    def write(self, folder: Path) -> list[Path]:
        """Writes the tables into a folder; returns their paths."""
        paths = []
        for name, rows, schema in self._tables():
            with atomic_path(folder / name) as part:
                pq.write_table(pa.Table.from_pylist(rows, schema=schema), part)
            paths.append(folder / name)
        return paths

    def _tables(self) -> list[tuple[str, list[Row], pa.Schema]]:
        return [
            ("evaluations.parquet", self.evaluations, EVALUATIONS),
            ("runs.parquet", self.runs, RUNS),
            ("sweep.parquet", self.sweep, RUNS),
        ]


def read_results(folder: Path) -> Results:
    """Reads the tables that `Results.write` wrote."""
    tables = (pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("evaluations", "runs", "sweep"))
    evaluations, runs, sweep = tables
    return Results(evaluations=evaluations, runs=runs, sweep=sweep)


def is_complete(folder: RunFolder) -> bool:
    """Whether a run has ended, all its measures exist, and its driver has removed its checkpoints."""
    rows = folder.rows()
    ended = bool(rows) and rows[-1]["outcome"] is not None and not folder.resume.exists()
    return ended and (Measures.read(folder.path).test_loss is not None or _is_task(folder))


def _is_task(folder: RunFolder) -> bool:
    """Whether this is a run of the user's own task, of which nothing is measured beside its evaluations."""
    return isinstance(read_schedule_file(folder.config).training, TaskConfig)


def run_rows(
    folder: RunFolder,
    measures: Measures,
    *,
    arm: str,
    seed: int,
    regularizer: Regularizer,
    study: str | None = None,
    reason: str | None = None,
    run_id: str | None = None,
) -> tuple[Row, list[Row]]:
    """Returns the row of a run and the rows of its evaluations. A run that did not reach its end has failed."""
    evaluations = folder.rows()
    completed = bool(evaluations) and evaluations[-1]["outcome"] is not None
    outcome = "completed" if completed else "failed"
    full = dict(measures.full_val_loss)
    rows = [
        row | {"study": study, "outcome": outcome, "arm": arm, "full_val_loss": full.get(row["step"])}
        for row in evaluations
    ]
    run: Row = dict.fromkeys(RUNS.names) | {
        "arm": arm, "seed": seed, "kind": regularizer.schedule.kind, **as_columns(regularizer.to_dict()),
        "outcome": outcome, "run_id": run_id,
    }  # fmt: skip
    if not completed:
        return run | {"reason": reason or "it has not reached its end"}, rows
    best, last = best_row(rows), rows[-1]
    return run | measures.final() | {
        "best_val_loss": best["val_loss"],
        "best_step": best["step"],
        "final_val_loss": last["val_loss"],
        "best_full_val_loss": min(full.values(), default=None),
        "final_train_loss": last["train_loss"],
        "train_seconds": last["train_seconds"],
    }, rows  # fmt: skip


def with_times(results: Results, baseline: str) -> Results:
    """Returns results with each run's seconds_to_baseline.

    This is the training time at the run's first evaluation that is as good as the baseline's best with the same seed;
    None if there is no such evaluation, or no such run of the baseline.
    """
    target = {run["seed"]: run["best_val_loss"] for run in results.runs if run["arm"] == baseline}
    evaluations = pd.DataFrame(results.evaluations, columns=EVALUATIONS.names)
    reached = evaluations[evaluations.val_loss <= evaluations.seed.map(target).astype(float)]
    seconds = reached.groupby(["arm", "seed"]).train_seconds.min().to_dict()
    runs = [
        run | {"seconds_to_baseline": seconds.get((run["arm"], run["seed"])) if run["outcome"] == "completed" else None}
        for run in results.runs
    ]
    return replace(results, runs=runs)


def best_rate(sweep: Iterable[Mapping[str, Any]]) -> float | None:
    """Returns the constant rate with the lowest mean best_val_loss in the rows of a sweep; None if no run ended.

    Rates are compared on the same seeds: a rate with a failed run is no candidate, unless all rates have one.
    """
    losses: dict[float, list[float]] = {}
    for run in sweep:
        if run["outcome"] == "completed":
            losses.setdefault(json.loads(run["schedule"])["rate"], []).append(run["best_val_loss"])
    most = max(map(len, losses.values()), default=0)
    means = {rate: fmean(found) for rate, found in losses.items() if len(found) == most}
    return min(means, key=lambda rate: (means[rate], rate), default=None)


def by_seed(runs: Sequence[Mapping[str, Any]], arm: str, metric: str) -> dict[int, float | None]:
    """Returns a metric of an arm's completed runs, by seed."""
    return {run["seed"]: run[metric] for run in runs if run["arm"] == arm and run["outcome"] == "completed"}
