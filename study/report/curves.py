"""The curves of arms and single trials: rates and losses over the steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from study.base.regularizers import parts_of_row
from study.report.trials import Row, Trial


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One arm's values over the steps: their mean over the seeds, and one standard deviation (0 for a single seed)."""

    arm: str
    regularizer: dict[str, Any]
    steps: tuple[int, ...]
    dropout_rates: tuple[float, ...]
    val_losses: tuple[float, ...]
    deviations: tuple[float, ...]
    seeds: int


def arm_curve(arm: str, rows: Sequence[Row]) -> Curve:
    """Returns the curve of an arm, at the steps that all of its seeds have reached."""
    table = pd.DataFrame(rows)
    seeds = table.seed.nunique()
    by_step = table.groupby("step").filter(lambda at: len(at) == seeds).groupby("step")
    losses = by_step.val_loss
    return Curve(
        arm=arm,
        regularizer=parts_of_row(rows[0]),
        steps=tuple(int(step) for step in by_step.groups),
        dropout_rates=tuple(by_step.dropout_rate.mean()),
        val_losses=tuple(losses.mean()),
        deviations=tuple(losses.std().fillna(0.0)),
        seeds=seeds,
    )


def trial_curve(name: str, trial: Trial) -> Curve:
    """Returns the curve of a single trial."""
    return Curve(
        arm=name,
        regularizer=trial.regularizer,
        steps=trial.steps,
        dropout_rates=trial.dropout_rates,
        val_losses=trial.val_losses,
        deviations=(0.0,) * len(trial.steps),
        seeds=1,
    )
