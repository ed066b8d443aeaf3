"""A short training of a task, of which nothing is kept: does it run, and what does it cost?"""

import io
from contextlib import closing
from dataclasses import dataclass

import torch

from study.tasks.own_trainer import TaskTrainer


@dataclass(frozen=True, kw_only=True)
class TryOut:
    """What was measured.

    Attributes:
        seconds_per_step: of training; without the first step, which warms up, where there are more.
        seconds_per_evaluation: the longest. 0 if the task evaluates without asking `run.is_due`: it counts as training.
        parameter_bytes: of the kept model; 0 if there is none.
        checkpoint_bytes: of all that a checkpoint holds.
        sites: the driven sites, and their rates in the last step.
    """

    seconds_per_step: float
    seconds_per_evaluation: float
    parameter_bytes: int
    checkpoint_bytes: int
    sites: dict[str, float]


def try_out(trainer: TaskTrainer, steps: int) -> TryOut:
    """Runs a task for some steps, at most its own, and takes and reads a checkpoint as a study does.

    Args:
        trainer: a fresh one, which is of no use afterwards.

    Raises:
        UserError, DivergenceError: as `TaskTrainer.run` does; other errors of the task come as they are.
    """
    trainer.last_step = min(steps, trainer.config.steps)
    checkpoint_bytes = 0
    with closing(trainer.run()) as evaluations:
        for _ in evaluations:
            buffer = io.BytesIO()
            torch.save(trainer.state_dict(), buffer)
            checkpoint_bytes = buffer.tell()
            buffer.seek(0)
            torch.load(buffer, map_location="cpu", weights_only=True)
    loop = trainer.loop
    assert loop is not None  # it has run
    n, seconds = trainer.last_step, loop.clock.seconds
    return TryOut(
        seconds_per_step=(seconds - loop.first_step_seconds) / (n - 1) if n > 1 else seconds,
        seconds_per_evaluation=loop.clock.evaluation_seconds or 0.0,
        parameter_bytes=sum(p.numel() * p.element_size() for p in loop.model.parameters()) if loop.model else 0,
        checkpoint_bytes=checkpoint_bytes,
        sites={name: rate for driver in loop.drivers for name, rate in driver.sites.items()},
    )
