"""A supernet of a second."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from model.regularizer import Regularizer
from study.corpus import Corpus, build_corpus
from study.tasks.supernet import SupernetTrainer
from study.training.config import TrainingConfig
from study.training.supernet_config import SupernetConfig
from tests.small_training import LINEAR

CONFIG = SupernetConfig(
    n_layer=2, n_head=4, n_embd=16, block_size=8, batch_size=4, steps=12, learning_rate=1e-2, min_learning_rate=1e-3,
    warmup_steps=3, eval_interval=5, val_share=0.5, seed=7, sizes="1,2 0.75,2 0.5,2 0.5,1 0.25,1",
)  # fmt: skip
SIZES = CONFIG.size_list()
PLAIN = TrainingConfig(**{f.name: getattr(CONFIG, f.name) for f in fields(TrainingConfig)})


@contextmanager
def words_corpus(cache: Path) -> Iterator[Corpus]:
    """2,000 characters of four words: the next letter follows from the last ones, save at the start of a word."""
    text = " ".join(random.Random(1).choices(("abcd", "bdfh", "cagi", "jihg"), k=400))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield build_corpus(text)


def supernet(corpus: Corpus, regularizer: dict[str, Any] = LINEAR, **changes: Any) -> SupernetTrainer:
    return SupernetTrainer(replace(CONFIG, **changes), Regularizer.from_dict(regularizer), corpus)
