"""A run in a folder: killed at any moment it goes on bit for bit, and keeps its best weights."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from study.corpus import Corpus
from study.training.evaluation_rows import Labels
from study.training.run_folder import RunFolder
from tests.small_training import (
    CONFIG,
    EVALUATIONS,
    LINEAR,
    VAL_LOSS,
    numbers,
    run_in,
    same,
    small_corpus,
    trainer,
    weights,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with small_corpus(tmp_path_factory.mktemp("cache")) as corpus:
        yield corpus


@pytest.fixture(autouse=True)
def checkpoint_at_every_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.training.run_folder.CHECKPOINT_SHARE", math.inf)


@pytest.mark.parametrize("stop", range(1, len(EVALUATIONS) + 1))
@pytest.mark.parametrize("schedule", [LINEAR, VAL_LOSS])
def test_resumed_run_is_bit_identical(corpus: Corpus, tmp_path: Path, schedule: dict[str, Any], stop: int) -> None:
    whole = trainer(corpus, schedule)
    expected = run_in(tmp_path / "whole", whole)
    stopped = trainer(corpus, schedule)
    before = run_in(tmp_path / "stopped", stopped, stop)
    resumed = trainer(corpus, schedule)
    after = run_in(tmp_path / "stopped", resumed)
    assert numbers(before) == numbers(expected[:stop])
    assert numbers(after) == numbers(expected[stop - 1 :])  # the last one is yielded again
    assert numbers(resumed.history) == numbers(expected)
    assert same(weights(resumed), weights(whole))
    assert resumed.train_seconds > stopped.train_seconds or stop == len(EVALUATIONS)
    folder = RunFolder(tmp_path / "stopped")
    best = RunFolder(tmp_path / "whole").load_best(corpus)
    assert same(list(folder.load_best(corpus).parameters()), list(best.parameters()))
    assert [row["val_loss"] for row in folder.rows()] == [p.val_loss for p in expected]
    folder.finish()
    assert not folder.resume.exists()


def test_run_killed_between_evaluations_goes_on_from_the_last_one(corpus: Corpus, tmp_path: Path) -> None:
    whole = trainer(corpus, VAL_LOSS)
    expected = run_in(tmp_path / "whole", whole)

    def die(step: int) -> None:
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(RunFolder(tmp_path / "killed").run(trainer(corpus, VAL_LOSS), Labels(), die))
    resumed = trainer(corpus, VAL_LOSS)
    assert numbers(run_in(tmp_path / "killed", resumed)) == numbers(expected[2:])
    assert same(weights(resumed), weights(whole))


def test_checkpoints_dearer_than_their_share_are_left_out(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trainer(corpus, VAL_LOSS)
    expected = run_in(tmp_path / "whole", whole)
    monkeypatch.setattr("study.training.run_folder.CHECKPOINT_SHARE", 1e-9)
    run_in(tmp_path / "stopped", trainer(corpus, VAL_LOSS), 4)
    assert [checkpoint.name for checkpoint in RunFolder(tmp_path / "stopped").resume.iterdir()] == ["step-00000000"]
    resumed = trainer(corpus, VAL_LOSS)
    assert numbers(run_in(tmp_path / "stopped", resumed)) == numbers(expected)
    assert same(weights(resumed), weights(whole))


def test_evaluations_that_others_have_seen_survive_many_deaths(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of an evaluation is not the same when it is made again, and MLflow has the first."""
    monkeypatch.setattr("study.training.run_folder.CHECKPOINT_SHARE", 1e-9)
    folder = RunFolder(tmp_path / "run")
    run_in(folder.path, trainer(corpus, VAL_LOSS), 4)
    seen = folder.rows()
    assert len(seen) == 4
    for deaths, stop in enumerate((1, 2, 3)):
        run_in(folder.path, trainer(corpus, VAL_LOSS), stop)
        assert folder.rows() == seen, deaths
    lines = folder.metrics.read_text().splitlines(keepends=True)
    folder.metrics.write_text("".join([*lines[:2], "damaged\n", lines[3]]))
    run_in(folder.path, trainer(corpus, VAL_LOSS))
    after = folder.rows()
    assert [row["step"] for row in after] == EVALUATIONS
    assert [row["tokens_per_second"] for row in after[:4] if row["step"] != seen[2]["step"]] == [
        row["tokens_per_second"] for row in seen if row["step"] != seen[2]["step"]
    ]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "name", "damaged"),
    [
        (flip, "state.pt", 1),
        (truncate, "state.pt", 1),
        (Path.unlink, "state.pt", 1),
        (truncate, "manifest.json", 1),
        (Path.unlink, "manifest.json", 1),
        (flip, "state.pt", 2),
    ],
)
def test_damaged_checkpoint_is_passed_over(
    corpus: Corpus, tmp_path: Path, damage: Any, name: str, damaged: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole = trainer(corpus, VAL_LOSS)
    expected = run_in(tmp_path / "whole", whole)
    run_in(tmp_path / "stopped", trainer(corpus, VAL_LOSS), 4)
    checkpoints = sorted(RunFolder(tmp_path / "stopped").resume.iterdir(), reverse=True)
    assert [checkpoint.name for checkpoint in checkpoints] == ["step-00000015", "step-00000010"]
    for checkpoint in checkpoints[:damaged]:
        damage(checkpoint / name)
    resumed = trainer(corpus, VAL_LOSS)
    after = run_in(tmp_path / "stopped", resumed)
    assert numbers(after) == numbers(expected[2:] if damaged == 1 else expected)  # from the start if none is good
    assert same(weights(resumed), weights(whole))
    assert [checkpoint.name in caplog.text for checkpoint in checkpoints] == [True, damaged == 2]


def test_best_weights_are_kept(corpus: Corpus, tmp_path: Path) -> None:
    run = trainer(corpus, VAL_LOSS)
    records = run_in(tmp_path, run)
    assert records[-1].best_step < CONFIG.steps
    run.model.load_state_dict(RunFolder(tmp_path).load_best(corpus).state_dict())
    assert run.validate() == records[-1].best_val_loss
