"""What a run's folder and the engine need of the thing that trains, whatever the task."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import nn

from model.regularizer import Regularizer
from study.training.progress import Progress
from study.training.task_config import RunConfig


class Trainable(Protocol):
    """One training run. It owns torch's default generators and thread count while it runs: one at a time a process.

    Attributes:
        model: whose weights are kept where val_loss is lowest; None if the task names none.
        step: updates done.
        history: the evaluations so far.
    """

    regularizer: Regularizer
    device: torch.device
    step: int
    history: list[Progress]

    @property
    def config(self) -> RunConfig:
        """What decides the run beside its regularizer."""

    @property
    def model(self) -> nn.Module | None:
        """See above."""

    def run(self, on_step: Callable[[int], None] | None = None) -> Iterator[Progress]:
        """Trains to the end, from where it stands; yields each evaluation, of which the last is at `config.steps`.

        `on_step` is called with the number of steps done after each. Raises DivergenceError.
        """

    def state_dict(self) -> dict[str, Any]:
        """Returns all that a bit-identical continuation needs, right after an evaluation: tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, in a fresh run."""
