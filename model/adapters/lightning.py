"""The callback of Lightning's Trainer: see `model.adapters.LightningDropout`."""

import math
from collections.abc import Mapping
from typing import Any

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:  # the same library by its older name
    from pytorch_lightning import Callback, LightningModule, Trainer

from model.drive import Driver, read_schedule
from model.drive.schedule_reader import Source
from model.regularizer import Regularizer
from model.schedules import ValLoss


class DropoutCallback(Callback):  # type: ignore[misc]  # Lightning's types are not read
    """Drives a module while a Trainer fits it.

    Attributes:
        driver: what drives the module that is fitted, or drove the last one.
    """

    def __init__(self, schedule: Source, monitor: str, only: str | None, skip: str | None, compiled: bool) -> None:
        self.regularizer = read_schedule(schedule)
        self.monitor, self.only, self.skip, self.compiled = monitor, only, skip, compiled
        self.driver: Driver | None = None
        self._fits = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begins a fit with a new schedule; Lightning then loads the state of a checkpoint."""
        if stage == "fit":
            self.regularizer = Regularizer.from_dict(self.regularizer.to_dict())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the module's sites."""
        steps = trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ValueError("a schedule needs the length of the training: give the Trainer max_steps or max_epochs")
        self.driver = Driver(pl_module, self.regularizer, int(steps), self.only, self.skip, self.compiled)
        self._fits = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets the rates of the update that this batch belongs to."""
        rate = self._driver().before_step(trainer.global_step)
        pl_module.log("dropout_rate", rate, on_step=True, on_epoch=False)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Leaves the user's rates in configs and hyperparameters, which a checkpoint may now save."""
        self._driver().restore_configs()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells the schedule the metric, save that of the check before the training and of `trainer.validate`."""
        if not self._fits:
            return
        if self.monitor in trainer.callback_metrics:
            self._driver().observe(trainer.callback_metrics[self.monitor])
        elif isinstance(self.regularizer.schedule, ValLoss):
            given = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ValueError(f"validation logs no {self.monitor} for the val_loss schedule, but {given}: give monitor=")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the module with the user's rates."""
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the module with the user's rates when the training is interrupted."""
        self._end()

    def state_dict(self) -> dict[str, Any]:
        """Returns the schedule's state, for Lightning's checkpoints."""
        return self.regularizer.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes the schedule's state from a checkpoint."""
        self.regularizer.load_state_dict(state_dict)

    def _driver(self) -> Driver:
        assert self.driver is not None, "Lightning begins each fit with on_train_start"
        return self.driver

    def _end(self) -> None:
        if self._fits:
            self._fits = False
            self._driver().restore()
