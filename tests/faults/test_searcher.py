"""What Optuna is told of trials that fail, and what is no failure of a trial."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from study.base.errors import WorldError, disk_error
from study.engine.optuna_runs import open_optuna_study
from study.engine.worker_messages import DISK, DIVERGED, FAILED
from study.records.journal import StudyJournal
from study.records.optuna_study import open_storage
from tests.test_searcher import make, result, states

pytestmark = pytest.mark.faults


def test_the_search_learns_to_avoid_where_trials_diverge(tmp_path: Path) -> None:
    """Half of the space diverges, not far from the best of the other half."""
    shares = []
    for learns in (True, False):
        study = open_optuna_study(open_storage(None, tmp_path / f"{learns}.journal"), "study", "tpe", seed=1)
        suggested = []
        for number in range(60):
            trial = study.ask()
            rate = trial.suggest_float("rate", 0.0, 1.0)
            suggested.append(rate)
            if rate > 0.5:
                if learns:
                    trial.set_user_attr(DIVERGED, True)
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, abs(rate - 0.4))
            assert number == trial.number
        shares.append(sum(rate > 0.5 for rate in suggested[20:]) / 40)
    assert shares[0] <= 0.3 < 0.5 <= shares[1], shares  # 0.2 and 1.0: what is passed over is suggested again


def test_diverged_is_failed_and_what_the_sampler_learns_from(tmp_path: Path) -> None:
    searcher, _ = make(tmp_path / "optuna.journal")
    searcher.suggest("t0")
    searcher.on_trial_complete("t0", {FAILED: "diverged: val_loss is nan at step 50", DIVERGED: True})
    storage = open_storage(None, tmp_path / "optuna.journal")
    (trial, *_) = optuna.load_study(study_name="study", storage=storage).trials
    assert trial.state is optuna.trial.TrialState.FAIL
    assert trial.user_attrs[DIVERGED] is True


def test_a_disk_that_cannot_be_written_fails_no_trial(tmp_path: Path) -> None:
    searcher, _ = make(tmp_path / "optuna.journal")
    for i in range(3):
        searcher.suggest(f"t{i}")
    searcher.on_trial_result("t0", {DISK: "No space left on device"})
    searcher.on_trial_complete("t0", {DISK: "No space left on device"})
    searcher.on_trial_complete("t1", result(100))  # whatever Tune says after that
    searcher.on_trial_error("t2", "...")
    assert isinstance(searcher.broken, WorldError)
    assert searcher.suggest("t3") is None
    assert states(tmp_path / "optuna.journal")[:3] == [optuna.trial.TrialState.RUNNING] * 3


def test_own_writes_that_fail_end_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher, _ = make(tmp_path / "optuna.journal")
    searcher.suggest("t0")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StudyJournal, "append_logs", full)
    searcher.on_trial_complete("t0", result(100))
    searcher.on_trial_complete("t0", error=True)
    searcher.on_trial_error("t0", "Tune takes our error for the trial's")
    monkeypatch.undo()
    assert disk_error(searcher.broken) == "No space left on device"
    assert states(tmp_path / "optuna.journal")[0] is optuna.trial.TrialState.RUNNING
