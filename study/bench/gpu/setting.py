"""What a GPU session measures: a preset on a device, its corpus, and times that wait for the device."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from model.schedules import Constant, Schedule
from study.bench.contestants import Shape
from study.corpus import Corpus, load_corpus
from study.training.config import PRESETS, TrainingConfig
from study.training.fits import gpt_config
from study.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A preset on a device.

    Attributes:
        steps: updates a measurement.
    """

    preset: str
    device: str
    corpus_path: str
    steps: int
    output: Path

    @property
    def is_cuda(self) -> bool:
        """Whether this is not a dry run."""
        return self.device == "cuda"

    @property
    def training(self) -> TrainingConfig:
        """The preset's training config on the device."""
        preset = PRESETS[self.preset]
        on_cuda = preset.on_cuda if self.is_cuda else {}
        return replace(preset.training, threads=2, corpus=self.corpus_path, **on_cuda)

    @property
    def corpus(self) -> Corpus:
        """The tokenised corpus."""
        return load_corpus(self.corpus_path)

    @property
    def shape(self) -> Shape:
        """What a step works on."""
        return Shape(gpt_config(self.training, len(self.corpus.vocab)), self.training.batch_size)

    def trainer(self, schedule: Schedule | float, **changes: object) -> Trainer:
        """Returns a trainer with all graphs compiled; a number is a constant rate."""
        config = replace(self.training, **changes)  # type: ignore[arg-type]
        schedule = Constant(schedule) if isinstance(schedule, float) else schedule
        trainer = Trainer(config, schedule, self.corpus, self.device)
        if config.compile:
            trainer.compile()
        return trainer

    def train(self, trainer: Trainer, n: int) -> None:
        """Makes `n` updates, as many intervals as that takes."""
        interval = trainer.config.eval_interval
        for first in range(0, n, interval):
            trainer.train_steps(min(interval, n - first))

    def wait(self) -> None:
        """Waits until the device has done what it was asked."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def milliseconds(self, run: Callable[[int], object], n: int, rounds: int = 3) -> float:
        """Returns the median time of one of `n` repetitions that `run` makes, device and host together."""
        run(n)
        times = []
        for _ in range(rounds):
            self.wait()
            started = time.perf_counter()
            run(n)
            self.wait()
            times.append(time.perf_counter() - started)
        return 1e3 * median(times) / n
