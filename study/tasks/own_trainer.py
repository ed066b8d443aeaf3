"""Trains the user's own task as one run that a study can stop, keep and continue."""

from collections.abc import Callable, Generator, Mapping
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from model.regularizer import Regularizer
from model.schedules import Schedule
from study.base.errors import UserError
from study.tasks import global_generators
from study.tasks.own_run import Run
from study.tasks.task_files import TaskFiles
from study.tasks.task_loop import TaskLoop
from study.tasks.task_thread import TaskThread, Unwound
from study.training.progress import Progress
from study.training.task_config import TaskConfig


class TaskTrainer:
    """One training run of a task, which fulfils `study.training.trainable.Trainable`.

    The user's function runs in a thread of its own while `run` waits for its next evaluation. It waits at the end of
    that step until `run` is asked for more.

    Attributes:
        model: what the task keeps under that name; right after its best evaluation, the weights that were evaluated.
        loop: where the task's loop stands; None before it starts.
        last_step: after how many steps to unwind the task, for a try-out; None to train to the end.
    """

    def __init__(
        self,
        config: TaskConfig,
        regularizer: Regularizer | Schedule | Mapping[str, Any],
        files: TaskFiles,
        device: str = "cpu",
        folder: Path | None = None,
    ) -> None:
        """Makes a run; the user's file is imported when it starts.

        Args:
            folder: where the task may write; made when the task asks for it. A temporary one if it is None.
        """
        d = regularizer if isinstance(regularizer, Mapping) else regularizer.to_dict()
        self.regularizer = Regularizer.from_dict(d)  # with a state of its own
        self.config, self.files, self.device = config, files, torch.device(device)
        self.step = 0
        self.history: list[Progress] = []
        self._folder = folder
        self._state: Mapping[str, Any] | None = None  # of the checkpoint from which to go on
        self.loop: TaskLoop | None = None
        self._thread: TaskThread | None = None
        self._on_step: Callable[[int], None] | None = None
        self._seen = 0  # evaluations that `run` has yielded
        self.last_step: int | None = None

    @property
    def model(self) -> nn.Module | None:
        if self.loop is None:
            return None
        return self.loop.weights or self.loop.model

    def run(self, on_step: Callable[[int], None] | None = None) -> Generator[Progress]:
        """Calls the user's function and yields each evaluation. When it is closed, the function is unwound.

        `on_step` is called with the number of steps done after each, in the function's thread.

        Raises:
            DivergenceError: if the task reports a loss that is NaN or infinite.
            UserError: if the task makes a mistake in its use of `run`. Its other exceptions come as they are.
        """
        if self.history and self.step == self.config.steps:
            return
        self._on_step, self._seen = on_step, len(self.history)
        self.loop = TaskLoop(self.config, self.regularizer, self.device, self.history, self._state, self._end_step)
        self._state = None
        self._thread = TaskThread(self._train)
        try:
            while self._thread.advance():
                yield self.history[-1]
                self.loop.weights = None
        finally:
            self._thread.close()

    def state_dict(self) -> dict[str, Any]:
        """Returns all that a bit-identical continuation needs, right after an evaluation: tensors and plain values.

        Raises:
            UserError: names the kept object whose state a checkpoint cannot hold.
        """
        assert self.loop is not None, "the run has not started"
        return self.loop.state_dict() | {
            "schedule": self.regularizer.state_dict(),
            "step": self.step,
            "history": [p.to_dict() for p in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, in a run that has not started; the task's objects when it keeps them."""
        self.regularizer.load_state_dict(state["schedule"])
        self.step, self.history = state["step"], [Progress(**p) for p in state["history"]]
        self._state = state

    def _train(self) -> None:
        """Calls the user's function; in its thread."""
        assert self.loop is not None
        torch.set_num_threads(self.config.threads)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        global_generators.seed_all(self.config.seed)
        given = nullcontext(self._folder) if self._folder else TemporaryDirectory(prefix="task-")
        try:
            with given as folder:
                function = self.files.load()
                global_generators.seed_all(self.config.seed)  # the import may have drawn from them
                function(Run(self.loop, Path(folder)))
        except SystemExit as error:  # a worker must not end with it
            raise UserError(f"{self.files.name} called sys.exit({error.code!r}): let the function return") from error
        if len(self.history) > self._seen:  # the task left its loop after the last report
            self._hand_over()
        if not self.history or self.history[-1].step != self.config.steps:
            raise UserError(
                f"{self.files.name} returned after {self.step} of {self.config.steps} steps: let its loop run over all "
                "of run.steps()"
            )

    def _end_step(self, done: int) -> None:
        """Called in the task's thread after each step."""
        assert self._thread is not None
        self._thread.check()
        if self._on_step is not None:
            self._on_step(done)
        if len(self.history) > self._seen:
            self._hand_over()
        self.step = done
        if done == self.last_step:
            raise Unwound

    def _hand_over(self) -> None:
        assert self._thread is not None
        self._seen = len(self.history)
        self.step = self.history[-1].step
        self._thread.hand_over()
