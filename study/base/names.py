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
"""A trial's number, or the name of another run: a replicate of a trial, or a run of a confirmation."""
NATS = "nats"
"""The unit of the GPT's losses: per token."""
PARENT_RUN = -1
"""Stands for the parent run where a key is expected."""
TRIALS_PER_GPU = "trials_per_gpu"
"""Of a trial that shared its GPU: with how many at most, itself included."""
LOSS, LOSS_AND_TIME = "loss", "loss,time"
"""What a search minimises: the best_val_loss, or the best_val_loss and the train_seconds."""
SECONDS = "train_seconds"
"""The time of the training steps, without evaluations, summed over restarts."""
CHECKPOINT = "checkpoint"
"""The artifact folder of a trial's best weights and config."""


class Role(StrEnum):
    """What a run is, in its tag `role`."""

    STUDY = "study"
    TRIAL = "trial"
    REPLICATE = "replicate"
    CONFIRMATION = "confirmation"
    CONFIRMATION_RUN = "confirmation_run"


CHILDREN = {Role.STUDY: (Role.TRIAL, Role.REPLICATE), Role.CONFIRMATION: (Role.CONFIRMATION_RUN,)}
"""The roles of the runs that are nested under a parent run."""
NUMBER = {Role.TRIAL: TRIAL, Role.REPLICATE: RUN, Role.CONFIRMATION_RUN: RUN}
"""The tag that tells the runs of a role apart."""


def role_of(key: Key, parent: Role) -> Role:
    """Returns the role of a run that is nested under a parent run, from the run's key."""
    return Role.TRIAL if isinstance(key, int) else CHILDREN[parent][-1]


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
