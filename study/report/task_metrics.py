"""The table of a task's own metrics: what its best trials reached beside val_loss."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from study.report.trials import Row, Trial
from study.tasks.score_table import score_table
from study.training.built_in import task_name
from study.training.evaluation_rows import TASK_METRICS, best_row
from study.training.sentences_config import SENTENCES
from study.training.task_config import RunConfig

TRIALS = 5


def metrics_table(config: RunConfig, rows: Sequence[Row], best_first: Sequence[Trial]) -> list[list[str]]:
    """Returns the metrics of the best trials at their best evaluation as texts, the head first.

    A study of sentences has 3-gram TF-IDF and the untrained model in the same table. Nothing is returned for a task
    without metrics of its own, or without a completed trial.
    """
    by_trial = {
        int(number): sorted(group, key=lambda row: row["step"])
        for number, group in groupby(sorted(rows, key=lambda row: row["trial"]), key=lambda row: row["trial"])
    }
    runs = {f"trial {t.number}": by_trial[t.number] for t in best_first[:TRIALS] if t.number in by_trial}
    if not any(row.get(TASK_METRICS) for evaluations in runs.values() for row in evaluations):
        return []
    if task_name(config) == SENTENCES:
        return score_table(runs)
    found: dict[str, Mapping[str, Any]] = {
        name: best_row(evaluations).get(TASK_METRICS) or {} for name, evaluations in runs.items()
    }
    names = list(dict.fromkeys(name for metrics in found.values() for name in metrics))
    return [["", *names]] + [
        [trial, *(f"{metrics[name]:.4g}" if name in metrics else "" for name in names)]
        for trial, metrics in found.items()
    ]
