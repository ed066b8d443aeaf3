"""The table at the end of a search."""

import io

import pytest
from rich.console import Console

from study.engine.display import CompletedTrial, best_trials


@pytest.mark.parametrize(("best_step", "expected"), [(0, None), (0, 2.5), (20, None), (20, 2.5)])
def test_a_winner_without_training_is_named_as_one(best_step: int, expected: float | None) -> None:
    console = Console(file=io.StringIO(), width=160)
    trial = CompletedTrial(
        number=3, schedule="constant 0.2", best_val_loss=2.4, best_step=best_step, expected_loss=expected, mean=None
    )
    best_trials([trial], console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("best before its first update" in said) == (best_step == 0)
    assert ("another seed" in said) == (expected is not None)
