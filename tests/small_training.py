"""A training of a second, and what two runs of it have in common."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.schedules import from_dict
from study.corpus import Corpus, build_corpus
from study.training.config import TrainingConfig
from study.training.evaluation_rows import Labels
from study.training.progress import Progress
from study.training.run_folder import RunFolder
from study.training.trainer import Trainer

CONFIG = TrainingConfig(
    n_layer=1, n_head=2, n_embd=16, block_size=8, batch_size=4, steps=22, learning_rate=1e-2, min_learning_rate=1e-3,
    warmup_steps=4, eval_interval=5, seed=7,
)  # fmt: skip


EVALUATIONS = [0, 5, 10, 15, 20, 22]


ZERO = {"kind": "constant", "rate": 0.0}


LINEAR = {"kind": "linear", "initial_rate": 0.5, "final_rate": 0.0}


# At this learning rate the validation loss goes both up and down, so that the rate does too.
VAL_LOSS = {"kind": "val_loss", "initial_rate": 0.4, "final_rate": 0.0, "factor": 0.5, "patience": 1, "min_delta": 0.0}


@contextmanager
def small_corpus(cache: Path) -> Iterator[Corpus]:
    """2,041 characters: 300 of a and b alone, then words of ten letters. Its last window is not full."""
    rng = random.Random(1)
    text = "".join(rng.choices("ab", k=300)) + " ".join("".join(rng.choices("abcdefghij", k=4)) for _ in range(349))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield build_corpus(text[:2041])


def trainer(corpus: Corpus, schedule: dict[str, Any] = LINEAR, **changes: Any) -> Trainer:
    return Trainer(replace(CONFIG, **changes), from_dict(schedule), corpus)


TIMES = ("tokens_per_second", "train_seconds", "time_ms")


def numbers(records: list[Progress]) -> list[dict[str, Any]]:
    """Returns the records without the times, which no two runs share."""
    return [{k: v for k, v in p.to_dict().items() if k not in TIMES} for p in records]


def weights(run: Trainer) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in run.model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def run_in(folder: Path, run: Trainer, stop: int | None = None) -> list[Progress]:
    """Trains in a folder to the end, or until `stop` evaluations were yielded, as if the process was killed then."""
    records: list[Progress] = []
    for progress in RunFolder(folder).run(run, Labels()):
        records.append(progress)
        if len(records) == stop:
            break
    torch.manual_seed(0)  # another process has other random streams
    return records
