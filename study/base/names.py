"""The names that a study uses in MLflow, Optuna and its files, each defined once."""

from enum import StrEnum

METRIC = "best_val_loss"
"""The number that Optuna minimises, ASHA compares at equal steps, and a verdict is about."""
PARENT = "mlflow.parentRunId"
"""MLflow's own tag that nests a run under another."""
RUN_NAME = "mlflow.runName"
NOTE = "mlflow.note.content"
ROLE = "role"
TRIAL = "trial"
RUN = "run"
ARM = "arm"
SEED = "seed"
OUTCOME = "outcome"
REASON = "reason"
Key = int | str
"""A trial's number, or the name of a confirmation's run."""
NATS = "nats"
"""The unit of the GPT's losses: per token."""
PARENT_RUN = -1
"""Stands for the parent run where a key is expected."""
TRIALS_PER_GPU = "trials_per_gpu"
"""Of a trial that shared its GPU: with how many at most, itself included."""
CHECKPOINT = "checkpoint"
"""The artifact folder of a trial's best weights and config."""


class Role(StrEnum):
    """What a run is, in its tag `role`."""

    STUDY = "study"
    TRIAL = "trial"
    CONFIRMATION = "confirmation"
    CONFIRMATION_RUN = "confirmation_run"


NUMBER = {Role.TRIAL: TRIAL, Role.CONFIRMATION_RUN: RUN}
"""The tag that tells the runs of a role apart."""


class Outcome(StrEnum):
    """How a trial ended, in its tag `outcome`."""

    COMPLETED = "completed"
    STOPPED_EARLY = "stopped_early"
    FAILED = "failed"


STATUS = {Outcome.COMPLETED: "FINISHED", Outcome.STOPPED_EARLY: "KILLED", Outcome.FAILED: "FAILED"}
"""The MLflow status that matches an outcome."""


def amount(value: float, unit: str) -> str:
    """Returns a loss or a difference of losses in words; the loss of the user's own task has no unit."""
    return f"{value:.4f} {unit}".rstrip()
