"""The callback of Hugging Face's Trainer: see `model.adapters.HuggingFaceDropout`."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler
from transformers.trainer_utils import IntervalStrategy

from model.drive import Driver, read_schedule
from model.drive.schedule_reader import Source
from model.regularizer import Regularizer
from model.schedules import ValLoss


class DropoutCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types here
    """Drives the Trainer's model from the beginning of a training to its end.

    Attributes:
        driver: what drives the model of the training that runs, or drove that of the last one.
    """

    def __init__(
        self, schedule: Source, monitor: str, only: str | None, skip: str | None, compiled: bool | None
    ) -> None:
        self.regularizer = read_schedule(schedule)
        self.monitor = monitor if monitor.startswith("eval_") else f"eval_{monitor}"
        self.only, self.skip, self.compiled = only, skip, compiled
        self.driver: Driver | None = None
        self._trains = False
        self._heard: set[int] = set()
        """The steps whose evaluation the schedule heard."""
        self._other_metrics: set[str] = set()
        """What evaluations gave that did not give the metric."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **more: Any
    ) -> None:
        """Finds the model's sites, and tells the schedule the evaluations from before a resumed training."""
        if self.driver is not None:
            self.driver.restore()  # of a training that was interrupted
        regularizer = Regularizer.from_dict(self.regularizer.to_dict())
        if isinstance(regularizer.schedule, ValLoss) and args.eval_strategy == IntervalStrategy.NO:
            raise ValueError("a val_loss schedule listens to evaluations, and eval_strategy is no: give steps or epoch")
        compiled = args.torch_compile if self.compiled is None else self.compiled
        self.driver = Driver(model, regularizer, state.max_steps, self.only, self.skip, compiled)
        self._trains = True
        self._heard, self._other_metrics = set(), set()
        for entry in state.log_history:
            if self.monitor in entry:
                self._hear(entry["step"], entry)
        _put_first(self)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Sets the rates of an update, once for all batches whose gradients it accumulates."""
        driver = self._driver()
        if isinstance(driver.regularizer.schedule, ValLoss) and self._other_metrics and not self._heard:
            given = ", ".join(sorted(self._other_metrics))
            raise ValueError(f"evaluations give no {self.monitor} for a val_loss schedule, but {given}: give monitor=")
        driver.before_step(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Leaves the user's rates in the config, which a checkpoint may now save."""
        self._driver().restore_configs()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float],
        **more: Any,
    ) -> None:
        """Tells the schedule an evaluation of the training that runs."""
        if self._trains:
            self._hear(state.global_step, metrics)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **more: Any,
    ) -> None:
        """Adds the rate to the training's logs."""
        if self._trains and "loss" in logs and (rate := self._driver().rate) is not None:
            logs["dropout_rate"] = rate
            state.log_history[-1]["dropout_rate"] = rate  # a copy of the logs, from before the callbacks

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Leaves the model with the user's rates."""
        self._trains = False
        self._driver().restore()

    def _driver(self) -> Driver:
        assert self.driver is not None, "the Trainer begins each training with on_train_begin"
        return self.driver

    def _hear(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tells the schedule an evaluation, once a step: with eval_on_start a resumed training repeats one."""
        if self.monitor not in metrics:
            self._other_metrics |= set(metrics)
        elif step not in self._heard:
            self._heard.add(step)
            self._driver().observe(metrics[self.monitor])


def _put_first(callback: TrainerCallback) -> None:
    """Moves a callback to the front of its Trainer's, where its caller's caller is their handler.

    A Trainer appends the user's callbacks to those that report to TensorBoard, MLflow and so on. These would get the
    logs before the rate is in them. The Trainer gives callbacks no other way to the handler than its call.
    """
    frame = inspect.currentframe()
    caller = frame and frame.f_back and frame.f_back.f_back
    handler = caller.f_locals.get("self") if caller else None
    if isinstance(handler, CallbackHandler) and callback in handler.callbacks:
        handler.callbacks.remove(callback)
        handler.callbacks.insert(0, callback)
