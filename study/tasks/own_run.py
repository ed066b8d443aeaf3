"""What the user's own task sees of its run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from model.checks import check_integer, short
from model.drive import Driver
from model.schedules import Schedule
from study.base.errors import UserError
from study.tasks import reported_values
from study.tasks.settings import Settings
from study.tasks.task_loop import TaskLoop


class Run:
    """One training run of a task. Steps count from 0; a step makes one update.

    A step may train first and evaluate then, or evaluate first, as nanoGPT does. A checkpoint is taken at the end of a
    step with an evaluation. It holds all that `keep` was given, `generator`, and the default generators of torch, NumPy
    and Python. A run that goes on from it repeats, bit for bit on a CPU, the run that was not interrupted, as long as
    the task carries nothing else from step to step: draw each batch within its step.

    Attributes:
        total_steps: the number of steps of the whole run, for a schedule of the learning rate.
        seed: the default generators of torch, NumPy and Python were seeded with it before the task was called.
        device: where to train.
        config: the settings of `--set key=value`.
        generator: a CPU generator for the order of the data: the same order in all runs with the same seed.
    """

    def __init__(self, loop: TaskLoop, folder: Path) -> None:
        """Made by TaskTrainer."""
        self.seed, self.device, self.generator = loop.config.seed, loop.device, loop.generator
        self.total_steps = loop.config.steps
        self.config = Settings(loop.config.settings)
        self._loop, self._folder = loop, folder

    @property
    def schedule(self) -> Schedule:
        """The schedule of the dropout rate, which `drive` follows."""
        self._loop.rate_is_read = True
        return self._loop.regularizer.schedule

    @property
    def dropout_rate(self) -> float:
        """The schedule's rate in this step, for a model that `drive` cannot drive."""
        if not self._loop.regularizer.is_plain and not self._loop.drivers:
            raise UserError(
                "run.dropout_rate is one rate for standard dropout in all layers, and this run has another family or "
                "depth: call run.drive(model)"
            )
        self._loop.rate_is_read = True
        return self._loop.rate

    @property
    def folder(self) -> Path:
        """A folder of this machine that the task may write to. It is empty if the run goes on elsewhere."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def drive(
        self, model: nn.Module, only: str | None = None, skip: str | None = None, compiled: bool = False
    ) -> Driver:
        """Lets every dropout site of a model follow the schedule, as `model.drive.Driver` does; returns the driver.

        Several models may be driven; print the driver's `sites` to see what it found.

        Raises:
            UserError: if the model has no site to drive, or cannot drop what the run's family drops.
        """
        self._check_not_begun("drive(model)")
        if not isinstance(model, nn.Module):
            raise UserError(f"run.drive needs a torch.nn.Module, got {short(model)}")
        loop = self._loop
        try:
            driver = Driver(model, loop.regularizer, loop.config.steps, only=only, skip=skip, compiled=compiled)
        except ValueError as error:
            raise UserError(f"run.drive: {error}") from None
        loop.drivers.append(driver)
        return driver

    def keep(self, **objects: Any) -> None:
        """Names what checkpoints hold, and restores it here if the run goes on.

        Args:
            objects: what has `state_dict` and `load_state_dict`, and generators of torch, NumPy and Python. The weights
                of `model` are saved where val_loss is lowest.

        Raises:
            UserError: for anything else, or if the run goes on and its checkpoint has no object of the name.
        """
        self._check_not_begun("keep(...)")
        for name, kept in objects.items():
            self._loop.kept.add(name, kept)

    def steps(self) -> Iterator[int]:
        """Yields the steps that are left, and writes the rate of each before.

        Raises:
            UserError: if it is called twice, or a step ends without an evaluation that was due.
        """
        self._check_not_begun("steps()")
        for step in self._loop.begin():
            self._loop.begin_step(step)
            yield step
            self._loop.end_step(step)

    def is_due(self, step: int) -> bool:
        """Whether to evaluate in this step: the first and the last, and each at which an --eval-interval ends.

        The time from here to `report` does not count as training.
        """
        try:
            check_integer("step", step, minimum=0)
        except ValueError as error:
            raise UserError(f"run.is_due: {error}") from None
        due = self._loop.is_due(step)
        if due and step == self._loop.step and not self._loop.is_reported:
            self._loop.clock.stop(for_evaluation=True)
        return due

    def report(self, val_loss: Any, train_loss: Any = None, learning_rate: Any = None, **metrics: Any) -> None:
        """Reports an evaluation: numbers, or tensors with one number.

        Args:
            val_loss: of the validation data, without dropout. Lower is better: it is what the study minimises.
            train_loss: of the training data.
            learning_rate: that of the first optimizer that is kept, unless it is given.
            metrics: more numbers to log, by name.

        Raises:
            DivergenceError: if a loss is NaN or infinite, or val_loss is None.
            UserError: if no evaluation is due in this step or one was reported, or a name or a number is refused.
        """
        loop = self._loop
        step = loop.step
        if step is None:
            raise UserError("run.report was called outside the loop over run.steps(): call it in the loop")
        if loop.is_reported:
            raise UserError(f"run.report was called twice in step {step}: give all numbers in one call")
        if not loop.is_due(step):
            raise UserError(f"run.report was called in step {step}, where none is due: ask run.is_due(step) before")
        done = loop.label(step)
        if learning_rate is None:
            learning_rate = loop.kept.learning_rate()
        loop.record(
            step,
            reported_values.loss("val_loss", val_loss, done),
            None if train_loss is None else reported_values.loss("train_loss", train_loss, done),
            None if learning_rate is None else reported_values.loss("learning_rate", learning_rate, done),
            reported_values.metrics(metrics, done),
        )

    def _check_not_begun(self, call: str) -> None:
        if self._loop.has_begun:
            again = "a second time" if call == "steps()" else "after run.steps() had begun"
            raise UserError(f"run.{call} was called {again}: call it once, before the loop over run.steps()")
