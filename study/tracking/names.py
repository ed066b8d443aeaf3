"""The names that a study uses in MLflow, each said once."""

from enum import StrEnum

PARENT = "mlflow.parentRunId"
"""MLflow's own tag that nests a run under another."""
RUN_NAME = "mlflow.runName"
NOTE = "mlflow.note.content"
ROLE = "role"
TRIAL = "trial"
OUTCOME = "outcome"
REASON = "reason"
PARENT_RUN = -1
"""Stands for the study's own run where a trial's number is expected."""
TRIALS_PER_GPU = "trials_per_gpu"
"""Of a trial that shared its GPU: with how many at most, itself included."""
CHECKPOINT = "checkpoint"
"""The artifact folder of a trial's best weights and config."""


class Role(StrEnum):
    """What a run is, in its tag `role`."""

    STUDY = "study"
    TRIAL = "trial"


class Outcome(StrEnum):
    """How a trial ended, in its tag `outcome`."""

    COMPLETED = "completed"
    STOPPED_EARLY = "stopped_early"
    FAILED = "failed"


STATUS = {Outcome.COMPLETED: "FINISHED", Outcome.STOPPED_EARLY: "KILLED", Outcome.FAILED: "FAILED"}
"""The MLflow status that matches an outcome."""
