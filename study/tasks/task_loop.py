"""The state of a task's training loop, which the user's code advances and checkpoints hold."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from model.drive import Driver
from model.regularizer import Regularizer
from study.base.errors import UserError
from study.tasks import global_generators
from study.tasks.evaluated_weights import EvaluatedWeights
from study.tasks.kept_objects import MODEL, KeptObjects
from study.tasks.training_clock import TrainingClock
from study.training.progress import Progress
from study.training.task_config import TaskConfig


class TaskLoop:
    """Where the loop stands.

    Attributes:
        step: the step that the task is in; None between two steps.
        history: the evaluations, to which one is added.
        drivers: of all models that are driven.
        rate: the schedule's in this step.
        rate_is_read: whether the task asked for the rate or the schedule itself.
        kept: what a checkpoint holds.
        generator: for the order of the data.
        weights: of the model at its best evaluation, until the caller has seen that; None at other times.
        first_step_seconds: the training time of the first step, which warms up.
    """

    def __init__(
        self,
        config: TaskConfig,
        regularizer: Regularizer,
        device: torch.device,
        history: list[Progress],
        state: Mapping[str, Any] | None,
        end_step: Callable[[int], None],
    ) -> None:
        """Starts a loop, or goes on from `state`, which `state_dict` returned.

        `end_step` is called with the number of steps done after each.
        """
        self.config, self.regularizer, self.device, self.history = config, regularizer, device, history
        self.step: int | None = None
        self.drivers: list[Driver] = []
        self.rate = regularizer.rate(history[-1].progress if history else 0.0)
        self.rate_is_read = self.has_begun = self.is_reported = False
        self.kept = KeptObjects(state and state["kept"])
        self.generator = torch.Generator().manual_seed(config.seed)
        self.clock = TrainingClock(device, state["train_seconds"] if state else 0.0)
        self.weights: nn.Module | None = None
        self.first_step_seconds = 0.0
        self._state, self._end_step = state, end_step

    def begin(self) -> range:
        """Restores what a checkpoint holds; returns the steps that are left."""
        self.has_begun = True
        self.kept.restore()
        if self._state is not None:
            self.generator.set_state(self._state["data_generator"])
            global_generators.load_state_dict(self._state["generators"], self.device)
            self._state = None
        return range(max(self.history[-1].step, 1) if self.history else 0, self.config.steps)

    def begin_step(self, step: int) -> None:
        """Writes the rates of a step."""
        self.step, self.is_reported = step, False
        self.rate = self.regularizer.rate(step / self.config.steps)
        for driver in self.drivers:
            driver.before_step(step)
        self.clock.start()

    def end_step(self, step: int) -> None:
        """Lets the caller see the step's end. Raises UserError if an evaluation was due and is not reported."""
        self.clock.stop()
        if self.is_due(step) and not self.is_reported:
            raise UserError(
                f"an evaluation was due in step {step}, and the task did not report it: where run.is_due(step) is "
                "True, call run.report(val_loss=...)"
            )
        self.step = None
        self.first_step_seconds = self.first_step_seconds or self.clock.seconds
        self._end_step(step + 1)

    def is_due(self, step: int) -> bool:
        """Whether an evaluation is due in a step."""
        return step in (0, self.config.steps - 1) or (step + 1) % self.config.eval_interval == 0

    def label(self, step: int) -> int:
        """Returns the number of updates that stands for an evaluation in a step: 0 in the first, then the step's own.

        Whether the task evaluates before or after its update is its own choice; its last evaluation is at the end.
        """
        return 0 if step == 0 and self.config.steps > 1 else step + 1

    def record(
        self,
        step: int,
        val_loss: float,
        train_loss: float | None,
        learning_rate: float | None,
        metrics: Mapping[str, float],
    ) -> None:
        """Adds the evaluation of a step, which a val_loss schedule hears of, and keeps the weights if it is the best.

        Raises:
            UserError: if a continuation could not go on, or the schedule changes nothing.
        """
        if not self.kept.objects:
            raise UserError(
                "the task keeps nothing, and could not go on after a crash: call run.keep(model=model, "
                "optimizer=optimizer) before run.steps()"
            )
        if not self.drivers and not self.rate_is_read:
            raise UserError(
                "nothing in the task follows the schedule, so that all runs would be equal: call run.drive(model) "
                "before run.steps(), or read run.dropout_rate in each step"
            )
        self.clock.stop()
        self.regularizer.observe(val_loss)
        done = self.label(step)
        best = min([(p.val_loss, p.step) for p in self.history] + [(val_loss, done)])
        self.history.append(
            Progress(
                step=done,
                progress=done / self.config.steps,
                dropout_rate=self.regularizer.rate(done / self.config.steps),
                train_loss=train_loss,
                val_loss=val_loss,
                best_val_loss=best[0],
                best_step=best[1],
                learning_rate=learning_rate,
                tokens_per_second=None,
                train_seconds=self.clock.seconds,
                time_ms=int(time.time() * 1000),
                metrics=metrics,
            )
        )
        if best[1] == done and self.model is not None:
            self.weights = EvaluatedWeights(self.model)
        self.is_reported = True
        self.clock.start()

    @property
    def model(self) -> nn.Module | None:
        """The model that is trained, if the task names one."""
        return self.kept.objects.get(MODEL)

    def state_dict(self) -> dict[str, Any]:
        """Returns what a continuation needs beside the history and the schedule's state, between two steps."""
        return {
            "kept": self.kept.states(),
            "data_generator": self.generator.get_state(),
            "generators": global_generators.state_dict(self.device),
            "train_seconds": self.clock.seconds,
        }
