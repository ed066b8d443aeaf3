"""What is measured of a run beside its training, for a confirmation."""

import math
from pathlib import Path

import pytest

from model.schedules import Constant, Linear
from study.corpus import load_corpus
from study.training.config import PRESETS
from study.training.evaluation_rows import Labels
from study.training.measures import run_measured
from study.training.measures_file import Measures
from study.training.run_folder import RunFolder
from study.training.trainer import Trainer

pytestmark = pytest.mark.slow


def test_measuring_changes_no_bit_of_the_training(tmp_path: Path) -> None:
    config, corpus = PRESETS["smoke"].training, load_corpus("shakespeare")
    plain = list(Trainer(config, Linear(0.3, 0.0), corpus).run())
    folder = RunFolder(tmp_path / "run")
    measured = list(run_measured(folder, Trainer(config, Linear(0.3, 0.0), corpus), corpus, Labels()))
    assert [(p.val_loss, p.train_loss) for p, _ in measured] == [(p.val_loss, p.train_loss) for p in plain]
    assert all(math.isfinite(more["full_val_loss"]) for _, more in measured)
    assert {"test_loss", "train_loss_dropout_off", "sampling_tokens_per_second"} <= measured[-1][1].keys()


def test_a_run_broken_off_goes_on_with_its_measures(tmp_path: Path) -> None:
    config, corpus = PRESETS["smoke"].training, load_corpus("shakespeare")
    whole = RunFolder(tmp_path / "whole")
    list(run_measured(whole, Trainer(config, Constant(0.2), corpus), corpus, Labels()))
    broken = RunFolder(tmp_path / "broken")
    for progress, _ in run_measured(broken, Trainer(config, Constant(0.2), corpus), corpus, Labels()):
        if progress.step == 30:
            break
    assert Measures.read(broken.path).test_loss is None
    list(run_measured(broken, Trainer(config, Constant(0.2), corpus), corpus, Labels()))
    a, b = Measures.read(whole.path), Measures.read(broken.path)
    assert (a.full_val_loss, a.test_loss, a.train_loss_dropout_off) == (
        b.full_val_loss,
        b.test_loss,
        b.train_loss_dropout_off,
    )


def test_what_was_measured_before_a_restart_is_not_measured_again(tmp_path: Path) -> None:
    config, corpus = PRESETS["smoke"].training, load_corpus("shakespeare")
    folder = RunFolder(tmp_path / "run")
    first = list(run_measured(folder, Trainer(config, Constant(0.2), corpus), corpus, Labels()))
    (again,) = run_measured(folder, Trainer(config, Constant(0.2), corpus), corpus, Labels())
    assert again[1] == first[-1][1], "a second speed would be a second point in MLflow"
    folder.finish()
    (again,) = run_measured(folder, Trainer(config, Constant(0.2), corpus), corpus, Labels())
    assert again[1] == first[-1][1]
