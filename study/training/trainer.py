"""The training loop: a generator of progress records that knows nothing of Ray, Optuna or MLflow."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from model.dropout import rate_owners, set_rates
from model.gpt import GPT, GPTConfig, fuse_attention
from model.regularizer import Regularizer
from model.schedules import Schedule
from study.base.errors import DivergenceError
from study.corpus import Corpus
from study.training.config import TrainingConfig
from study.training.evaluation import Windows, mean_loss, windows
from study.training.fits import check_fits, gpt_config
from study.training.graphed_steps import GraphedSteps
from study.training.learning_rate import learning_rate
from study.training.optimizer import adamw, with_plain_rates
from study.training.progress import Progress


class Trainer:
    """One training run of a language model, and what the tasks on the same GPT are made from.

    It owns torch's default generators and thread count while it runs: one at a time a process. A task replaces some of
    `make_model`, `make_optimizer`, `take_data`, `loss_of`, `update`, `measure` and `test_loss`.

    Attributes:
        reads_text: whether the loss is over windows of text, so that it can be measured on any of them.

    Raises:
        UserError: if the corpus is too short for the config, or the family does not fit the config.
    """

    reads_text: ClassVar[bool] = True

    def __init__(
        self,
        config: TrainingConfig,
        regularizer: Regularizer | Schedule | Mapping[str, Any],
        corpus: Corpus,
        device: str = "cpu",
    ) -> None:
        d = regularizer if isinstance(regularizer, Mapping) else regularizer.to_dict()
        self.regularizer = Regularizer.from_dict(d)  # with a state of its own
        check_fits(config, corpus, self.regularizer)
        self.config, self.device = config, torch.device(device)
        torch.set_num_threads(config.threads)
        if self.device.type == "cuda":  # on a CPU the same setting would allow other products
            torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it deterministic products are refused
            torch.use_deterministic_algorithms(config.deterministic)
        torch.manual_seed(config.seed)
        self.data_generator = torch.Generator().manual_seed(config.seed)
        self.model = self.make_model(gpt_config(config, len(corpus.vocab))).to(self.device)
        self._owners = rate_owners(self.model)
        fuse_attention(self.model)
        if config.compile:
            self.model.compile(dynamic=False)
        self.optimizer = self.make_optimizer()
        self.take_data(corpus)
        self.graphed = GraphedSteps(self) if config.cuda_graphs and self.device.type == "cuda" else None
        self.step = 0
        self.train_seconds = 0.0
        self.history: list[Progress] = []
        self._set_rates(0)

    def make_model(self, config: GPTConfig) -> GPT:
        """Returns the model with its initial weights."""
        return GPT(config, self.regularizer.family)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Returns the optimizer of the model's weights."""
        return adamw(self.model, self.config)

    def take_data(self, corpus: Corpus) -> None:
        """Takes from the corpus what the run trains on and is evaluated on, and moves it to the device."""
        train = corpus.split("train")[: self.config.train_chars or None]
        self._train_tokens = torch.from_numpy(np.array(train)).to(self.device)
        self._offsets = torch.arange(self.config.block_size + 1, device=self.device)
        self.n_starts = len(train) - self.config.block_size
        self.val_windows = windows(corpus.split("val"), self.config, self.device)

    @property
    def schedule(self) -> Schedule:
        """The regularizer's schedule."""
        return self.regularizer.schedule

    @property
    def best(self) -> Progress | None:
        """The evaluation with the lowest validation loss so far."""
        return min(self.history, key=lambda p: p.val_loss, default=None)

    def run(self, on_step: Callable[[int], None] | None = None) -> Iterator[Progress]:
        """Trains to the end, from where it stands; yields each evaluation, the first at step 0.

        `on_step` is called with the number of steps done after each. Raises DivergenceError.
        """
        if self.config.compile:
            self.compile()
        if not self.history:
            yield self._evaluate(self._first_loss())
        while self.step < self.config.steps:
            interval = self.config.eval_interval
            n = min(interval - self.step % interval, self.config.steps - self.step)
            started = time.perf_counter()
            train_loss = self.train_steps(n, on_step)
            seconds = time.perf_counter() - started
            self.train_seconds += seconds
            yield self._evaluate(train_loss, n * self.config.batch_size * self.config.block_size / seconds)

    def train_steps(self, n: int, on_step: Callable[[int], None] | None = None) -> float:
        """Makes `n` updates; returns their mean loss, dropout on."""
        starts = self._draw_starts(n)
        if self.graphed is not None:
            return self.graphed.train_steps(starts, on_step) / n
        loss_sum = torch.zeros((), device=self.device)
        for batch in starts.to(self.device):
            self._set_rates(self.step)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.config, self.step)
            loss_sum += self.update(batch)
            self.step += 1
            if on_step is not None:
                on_step(self.step)
        return loss_sum.item() / n  # waits for the device

    def phases(self) -> list[tuple[int, int]]:
        """Returns the parts of a run whose steps cost alike: where each begins, and how many steps it has."""
        return [(0, self.config.steps)]

    def rates(self, step: int) -> tuple[float, ...]:
        """Returns the dropout rate of each block in the update `step`, as the schedule has it now."""
        return self.regularizer.rates(step / self.config.steps, self.config.n_layer)

    def update(self, starts: Tensor) -> Tensor:
        """Makes one update, with the rates that are set, on the sequences that start at `starts` (B,).

        Returns its loss.
        """
        loss = self.loss_of(starts)
        loss.backward()
        self._apply_gradients()
        detached: Tensor = loss.detach()
        return detached

    def _apply_gradients(self) -> None:
        """Clips the gradients that there are, and makes one step of the optimizer."""
        if self.config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def loss_of(self, starts: Tensor) -> Tensor:
        """Returns the loss on the sequences that start at `starts` (B,), with the rates that are set."""
        with self._autocast():
            loss: Tensor = self.model(*self._batch(starts))[1]
        return loss

    def measure(self) -> tuple[float, dict[str, float]]:
        """Returns the val_loss of an evaluation, and a task's other numbers by name."""
        return self.validate(), {}

    def validate(self) -> float:
        """Returns the loss on the validation windows that the config names."""
        return self.mean_loss(self.val_windows)

    def mean_loss(self, windows: Windows) -> float:
        """Returns the cross-entropy in nats per token over `windows`, dropout off: the same for the same weights.

        A family that works in evaluation too does so with the rates that are set: those of the last update, or, where
        saved weights were loaded, theirs.
        """
        self.model.eval()
        with self._autocast():
            loss = mean_loss(lambda x, y: self.model(x, y)[1], windows, self.config.batch_size)
        self.model.train()
        return loss

    def test_loss(self, corpus: Corpus) -> float:
        """Returns the counterpart of val_loss on the whole test split, dropout off."""
        return self.mean_loss(windows(corpus.split("test"), replace(self.config, val_share=1.0), self.device))

    def state_dict(self) -> dict[str, Any]:
        """Returns all that a bit-identical continuation needs, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": with_plain_rates(self.optimizer.state_dict()),
            "torch_generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
            "data_generator": self.data_generator.get_state(),
            "schedule": self.regularizer.state_dict(),
            "step": self.step,
            "train_seconds": self.train_seconds,
            "history": [p.to_dict() for p in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, right after an evaluation."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.graphed is not None:
            self.graphed.attach()
        torch.set_rng_state(state["torch_generator"])
        if self.device.type == "cuda" and state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"])
        self.data_generator.set_state(state["data_generator"])
        self.regularizer.load_state_dict(state["schedule"])
        self.step, self.train_seconds = state["step"], state["train_seconds"]
        self.history = [Progress(**p) for p in state["history"]]

    def _draw_starts(self, n: int) -> Tensor:
        """Returns where the sequences of the next `n` batches start, (n, B): the same numbers as drawn one by one."""
        return torch.randint(self.n_starts, (n, self.config.batch_size), generator=self.data_generator)

    def _batch(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        sequences = self._train_tokens[starts[:, None] + self._offsets].long()  # (B, T + 1)
        return sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous()

    def _next_starts(self) -> Tensor:
        """Returns where the sequences of the next update start, (B,), which gets them again."""
        state = self.data_generator.get_state()
        starts = self._draw_starts(1)[0]
        self.data_generator.set_state(state)
        return starts.to(self.device)

    def compile(self) -> None:
        """Compiles all graphs, with dropout and without, and leaves every rate, generator and gradient as it was."""
        self._compile_updates()
        self.measure()

    def _compile_updates(self) -> None:
        kept = [owner.value for owner in self._owners]
        with torch.random.fork_rng(devices=self._generators()):
            for rate in (0.1, 0.0):
                set_rates(self._owners, [rate] * len(self._owners))
                self.loss_of(self._next_starts()).backward()
        self.optimizer.zero_grad(set_to_none=True)
        set_rates(self._owners, kept)

    def _first_loss(self) -> float:
        """Returns the loss of the first batch with dropout on, and leaves every generator as it was."""
        self._set_rates(0)
        with torch.random.fork_rng(devices=self._generators()):
            loss = self.loss_of(self._next_starts())  # with gradients, as it was compiled
        return float(loss.detach())

    def _set_rates(self, step: int) -> None:
        set_rates(self._owners, self.rates(step))

    def _generators(self) -> list[torch.device]:
        """Returns the devices beside the CPU whose generator this run uses."""
        return [self.device] if self.device.type == "cuda" else []

    def _evaluate(self, train_loss: float, tokens_per_second: float = 0.0) -> Progress:
        val_loss, metrics = self.measure()
        for name, loss in (("train_loss", train_loss), ("val_loss", val_loss)):
            if not math.isfinite(loss):
                raise DivergenceError(f"{name} is {loss} at step {self.step}")
        self.regularizer.observe(val_loss)
        best = self.best
        if best is None or val_loss < best.val_loss:
            best_val_loss, best_step = val_loss, self.step
        else:
            best_val_loss, best_step = best.val_loss, best.step
        progress = self.step / self.config.steps
        record = Progress(
            step=self.step,
            progress=progress,
            dropout_rate=self.regularizer.rate(progress),
            train_loss=train_loss,
            val_loss=val_loss,
            best_val_loss=best_val_loss,
            best_step=best_step,
            learning_rate=learning_rate(self.config, self.step),
            tokens_per_second=tokens_per_second,
            train_seconds=self.train_seconds,
            metrics=metrics,
            time_ms=int(time.time() * 1000),
        )
        self.history.append(record)
        return record

    def _autocast(self) -> Any:
        if self.config.dtype == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()
