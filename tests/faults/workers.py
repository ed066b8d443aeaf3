"""Faults inside the workers of a real study: each trial trains as ever, until something happens to its process."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from study.engine import trial
from study.engine.trial import Job
from study.training import run_folder as folder
from study.training import trainer as training

Fault = Callable[[Path], AbstractContextManager[Any]]


def die() -> None:
    """Ends this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def first_time(marks: Path, what: str) -> bool:
    """Whether something happens for the first time, over all processes of a trial."""
    try:
        (marks / what).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@contextmanager
def at_step(step: int, happen: Callable[[training.Trainer], None]) -> Iterator[None]:
    """Lets something happen right before a training step."""
    update = training.Trainer.update

    def faulty(self: training.Trainer, starts: torch.Tensor) -> torch.Tensor:
        if self.step == step:
            happen(self)
        return update(self, starts)

    with patch.object(training.Trainer, "update", faulty):
        yield


@contextmanager
def notes_where_it_begins(marks: Path) -> Iterator[None]:
    """Writes down the first step that this process trains."""
    update = training.Trainer.update
    begun: list[int] = []

    def noting(self: training.Trainer, starts: torch.Tensor) -> torch.Tensor:
        if not begun:
            begun.append(self.step)
            with (marks / "begun").open("a") as file:
                file.write(f"{self.step}\n")
        return update(self, starts)

    with patch.object(training.Trainer, "update", noting):
        yield


@contextmanager
def dies_four_times(marks: Path) -> Iterator[None]:
    """Dies between evaluations, while it writes a checkpoint, and while it puts one in its place."""
    write, rename = Path.write_bytes, Path.rename

    def dying_write(self: Path, data: Any) -> int:
        if self.name == "state.pt" and (marks / "at 15").exists() and first_time(marks, "writing"):
            write(self, bytes(data)[: len(data) // 2])
            die()
        return write(self, data)

    def dying_rename(self: Path, target: Any) -> Path:
        if Path(target).name == "step-00000040" and first_time(marks, "renaming"):
            die()
        return rename(self, target)

    def maybe_die(trainer: training.Trainer) -> None:
        if first_time(marks, f"at {trainer.step}"):
            die()

    with (
        at_step(15, maybe_die),
        at_step(55, maybe_die),
        patch.object(Path, "write_bytes", dying_write),
        patch.object(Path, "rename", dying_rename),
    ):
        yield


@contextmanager
def finds_its_checkpoint_damaged(marks: Path) -> Iterator[None]:
    """Dies, and its newest checkpoint has a flipped bit by then."""

    def damage(trainer: training.Trainer) -> None:
        if first_time(marks, "damaged"):
            state = marks / "resume" / "step-00000040" / "state.pt"
            content = bytearray(state.read_bytes())
            content[len(content) // 2] ^= 1
            state.write_bytes(content)
            die()

    with at_step(45, damage):
        yield


@contextmanager
def runs_out_of_memory(marks: Path) -> Iterator[None]:
    """Asks for more memory than there is."""
    with at_step(15, lambda trainer: bytearray(1 << 60) and None):
        yield


@contextmanager
def runs_out_of_gpu_memory(marks: Path) -> Iterator[None]:
    """Is told by torch that the GPU's memory is full."""

    def full(trainer: training.Trainer) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with at_step(15, full):
        yield


@contextmanager
def raises(marks: Path) -> Iterator[None]:
    """Has a mistake in its code."""
    with at_step(15, lambda trainer: {}["no such key"]):
        yield


@contextmanager
def diverges(marks: Path) -> Iterator[None]:
    """Gets a weight that is not a number."""

    def spoil(trainer: training.Trainer) -> None:
        with torch.no_grad():
            next(trainer.model.parameters()).fill_(math.nan)

    with at_step(25, spoil):
        yield


@contextmanager
def dies_at_once(marks: Path) -> Iterator[None]:
    """Dies before its first checkpoint, each time."""
    with at_step(0, lambda trainer: die()), patch.object(folder.RunFolder, "checkpoint", lambda self, trainer: None):
        yield


@contextmanager
def is_paused(marks: Path) -> Iterator[None]:
    """Is stopped by a signal until someone lets it go on."""

    def pause(trainer: training.Trainer) -> None:
        if first_time(marks, "paused"):
            (marks / "pid").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)

    with at_step(25, pause):
        yield


@contextmanager
def steps_through_time(marks: Path) -> Iterator[None]:
    """Has a wall clock that steps back by an hour, then forward by a day, then back again."""
    now = time.time
    calls = iter(range(1 << 30))
    with patch("time.time", lambda: now() + (0, -3600, 86400, -86400)[next(calls) // 3 % 4]):
        yield


@contextmanager
def is_slow(marks: Path) -> Iterator[None]:
    """Takes minutes from one evaluation to the next."""

    def take_long(trainer: training.Trainer) -> None:
        (marks / "in training").write_text("now")
        time.sleep(300)

    with at_step(5, take_long):
        yield


FAULTS: Mapping[str, Mapping[int, Fault]] = {
    "all sorts": {
        0: diverges,
        1: finds_its_checkpoint_damaged,
        2: runs_out_of_memory,
        3: raises,
        4: dies_four_times,  # with a schedule that has a state
        5: dies_at_once,
        6: is_paused,
        7: runs_out_of_gpu_memory,
    },
    "clock": dict.fromkeys(range(100), steps_through_time),
    "slow": dict.fromkeys(range(100), is_slow),
    "fails": dict.fromkeys(range(100), raises),
}


def run_trial(config: dict[str, Any], job: Job) -> None:
    """Runs a trial as ever, with what is to happen to it according to the environment variable FAULTS."""
    fault = FAULTS[os.environ["FAULTS"]].get(config["number"])
    marks = Path(job.storage, job.study, "trials", f"{config['number']:05d}")
    marks.mkdir(parents=True, exist_ok=True)
    with (
        patch.object(folder, "CHECKPOINT_SHARE", math.inf),
        fault(marks) if fault else nullcontext(),
        notes_where_it_begins(marks),
    ):
        trial.run_trial(config, job)
