"""The export of a supernet's size as an ordinary GPT."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.gpt import GPT
from model.schedules import from_dict
from model.size import ByWidth, Size
from study.base.errors import UserError
from study.corpus import Corpus
from study.tasks.supernet import extract_run
from study.training.config import PRESETS
from study.training.evaluation_rows import Labels
from study.training.run_folder import RunFolder
from study.training.schedule_file import read_schedule_file
from study.training.supernet_config import subnet_training
from study.training.trainer import Trainer
from tests.small_supernet import CONFIG, supernet, words_corpus
from tests.small_training import LINEAR, ZERO, run_in

STANDOUT = {"schedule": {"kind": "constant", "rate": 0.3}, "family": {"kind": "standout", "alpha": 1.0}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with words_corpus(tmp_path_factory.mktemp("cache")) as corpus:
        yield corpus


@pytest.mark.parametrize(
    "regularizer", [{"schedule": LINEAR, "size_rule": {"kind": "same"}}, STANDOUT], ids=["standard", "standout"]
)
@pytest.mark.parametrize("size", ["1,2", "0.5,2", "0.25,1"])
def test_an_exported_size_is_an_ordinary_gpt_with_the_same_logits(
    corpus: Corpus, tmp_path: Path, size: str, regularizer: dict[str, Any]
) -> None:
    run = supernet(corpus, regularizer)
    records = run_in(tmp_path / "run", run)
    assert records[-1].best_step == CONFIG.steps  # so that the run's weights are the best
    found = extract_run(tmp_path / "run", Size.parse(size), tmp_path / "made" / "size")
    exported = RunFolder(tmp_path / "made" / "size")
    gpt = exported.load_best(corpus)
    assert type(gpt) is GPT
    assert sum(p.numel() for p in gpt.parameters()) == found.parameters
    assert (found.size, found.step) == (Size.parse(size), CONFIG.steps)
    run._use(Size.parse(size), run._rates_now())
    run.model.eval()
    x, y = (t.long() for t in run.val_windows)
    for a, b in zip(gpt(x, y), run.model(x, y), strict=True):
        assert torch.equal(a, b)
    file = read_schedule_file(exported.config)
    assert file.training == subnet_training(run.config, Size.parse(size))
    assert file.provenance == {"supernet_size": size}
    assert file.size_rule == ByWidth(), "it has one size, and its file is one of the plain format where it can be"
    alone = Trainer(file.training, file.regularizer, corpus)  # type: ignore[arg-type]
    name = f"val_loss_{Size.parse(size).name}"
    alone.model.load_state_dict(gpt.state_dict())
    assert alone.validate() == records[-1].metrics[name]


def test_what_cannot_be_exported_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    run_in(tmp_path / "run", supernet(corpus), 1)
    with pytest.raises(UserError, match=r"size 0\.25,2 was not trained: give one of 1,2 or 0\.75,2"):
        extract_run(tmp_path / "run", Size.parse("0.25,2"), tmp_path / "out")
    plain = PRESETS["smoke"].training
    list(RunFolder(tmp_path / "plain").run(Trainer(replace(plain, steps=1), from_dict(ZERO), corpus), Labels()))
    with pytest.raises(UserError, match="this is no supernet: only --task supernet has sizes"):
        extract_run(tmp_path / "plain", Size.parse("1,1"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
