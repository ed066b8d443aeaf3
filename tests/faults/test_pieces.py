"""The parts that the fault tests of whole studies lean on, one by one: lock, journal, spool, sampler, files."""

import hashlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.storages.journal import JournalFileBackend

from model.schedules import from_dict
from study import journal, lock
from study.config import PRESETS
from study.corpus import build_corpus
from study.errors import UserError, WorldError, disk_error
from study.folder import RunFolder
from study.layout import StudyFolder
from study.lock import StudyLock
from study.messages import DISK, DIVERGED, FAILED
from study.rows import Labels
from study.runner import Stop
from study.searcher import open_optuna_study, open_storage
from study.tracking.client import connect
from study.tracking.names import Outcome
from study.tracking.spool import Spool
from study.tracking.writer import StudyWriter
from study.training import Trainer
from tests.conftest import ROOT
from tests.faults.test_fuzz import CONFIG
from tests.test_searcher import make, result, states

pytestmark = pytest.mark.faults

HOLDER = "import sys, time; from pathlib import Path; from study.lock import StudyLock; "
HOLDER += "StudyLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "name").mkdir()
    return tmp_path / "name" / "study.lock"


def test_lock_names_its_holder_and_vanishes_with_it(path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"study name is being run by process {process.pid} on .* since 20"):
            StudyLock(path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    StudyLock(path).release()
    StudyLock(path).release()


def test_lock_of_another_machine_counts_while_it_counts_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lock, "SILENT_SECONDS", 0.5)
    holder = {"pid": 7, "host": "elsewhere", "since": "2026-11-22T10:00:00Z"}
    path.write_text(json.dumps(holder | {"beat": 1}))
    stop = threading.Event()

    def count_up() -> None:
        beat = 1
        while not stop.wait(0.02):
            beat += 1
            path.write_text(json.dumps(holder | {"beat": beat}).ljust(lock.RECORD_BYTES))

    thread = threading.Thread(target=count_up)
    thread.start()
    try:
        with pytest.raises(UserError, match="process 7 on elsewhere since 2026-11-22T10:00:00Z"):
            StudyLock(path)
    finally:
        stop.set()
        thread.join()
    StudyLock(path).release()  # it has been silent


@pytest.mark.parametrize("torn", [b'{"op_code":4,"wor', b"\0\0\0\0\n", b"[1]\n"])
def test_journal_whose_last_line_is_damaged_goes_on(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "optuna.journal"
    study = open_optuna_study(open_storage(None, path), "study", "tpe", 1)
    study.ask()
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    (tmp_path / "optuna.journal.lock").symlink_to(path)  # which the dead process held: Optuna would wait for 30 s
    journal.mend(path)
    assert path.read_bytes() == whole
    assert not list(tmp_path.glob("*.lock*"))
    again = open_optuna_study(open_storage(None, path), "study", "tpe", 1)
    again.ask()
    assert [trial.number for trial in again.trials] == [0, 1]


def journal_of_three(tmp_path: Path) -> tuple[Path, bytes]:
    path = tmp_path / "optuna.journal"
    study = open_optuna_study(open_storage(None, path), "study", "tpe", 1)
    for _ in range(3):
        trial = study.ask()
        study.tell(trial, trial.suggest_float("rate", 0.0, 0.9))
    return path, path.read_bytes()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("damage", ["flipped bit", "missing line", "truncated", "gone"])
def test_journal_that_is_damaged_anywhere_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, share: float
) -> None:
    path, whole = journal_of_three(tmp_path)
    place = int(share * len(whole))
    lines = whole.splitlines(keepends=True)
    if damage == "flipped bit":
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    elif damage == "missing line":
        path.write_bytes(b"".join(line for i, line in enumerate(lines) if i != int(share * len(lines))))
    elif damage == "truncated":
        path.write_bytes(whole[:place])
    else:
        path.unlink()
    if damage == "flipped bit":  # who only reads it says so
        with pytest.raises(UserError, match=r"optuna\.journal is damaged .*: study\.search --resume mends it"):
            open_storage(None, path)
    journal.mend(path)
    assert path.read_bytes() == whole
    assert "optuna.journal is damaged: optuna.copy.journal is used, and nothing is lost" in caplog.text
    study = open_optuna_study(open_storage(None, path), "study", "tpe", 1)
    study.ask()
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]


def test_every_bit_of_a_journal_is_watched(tmp_path: Path) -> None:
    path, whole = journal_of_three(tmp_path)
    line = next(line for line in whole.splitlines(keepends=True) if b'"param_name"' in line)
    at = whole.index(line)
    for position in range(at, at + len(line)):
        for bit in (1, 64):
            damaged = bytearray(whole)
            damaged[position] ^= bit
            path.write_bytes(damaged)
            journal.mend(path)
            assert path.read_bytes() == whole


def test_journal_and_copy_mend_each_other_unless_both_lack_a_line(tmp_path: Path) -> None:
    path, whole = journal_of_three(tmp_path)
    copy = tmp_path / "optuna.copy.journal"
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:]))
    copy.write_bytes(b"".join(lines[:6] + lines[7:]))
    journal.mend(path)
    assert path.read_bytes() == copy.read_bytes() == whole
    for place in (path, copy):
        place.write_bytes(whole.replace(lines[3], lines[3][1:]))
    with pytest.raises(UserError, match=r"damaged at line 4, and so is optuna\.copy\.journal"):
        journal.mend(path)
    for place in (path, copy):
        place.write_bytes(b"not one line of ours\n" * 9)
    with pytest.raises(UserError, match="every line"):
        journal.mend(path)


def test_how_far_a_spool_was_sent_is_not_believed_if_it_is_damaged(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "x.spool")
    for i in range(3):
        spool.put({"i": i})
    spool.remove([0])
    spool.close()
    sent = tmp_path / "x.sent"
    whole = sent.read_bytes()
    for position in range(len(whole) - 1):
        sent.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        again = Spool(tmp_path / "x.spool")
        assert [event["i"] for _, event in again.take(9, timeout=0)] == [0, 1, 2], "all are sent again"
        again.close()


def test_damaged_line_of_a_spool_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(tmp_path / "x.spool")
    for i in range(3):
        spool.put({"i": i})
    spool.close()
    raw = (tmp_path / "x.spool").read_bytes()
    (tmp_path / "x.spool").write_bytes(raw.replace(b'{"i": 1}', b'{"i": 7}'))
    assert [event["i"] for _, event in Spool(tmp_path / "x.spool").take(9, timeout=0)] == [0, 2]
    assert "damaged at line 2" in caplog.text


def test_a_step_is_logged_once_and_in_order(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    writer = StudyWriter(uri, "name", tmp_path / "x.spool")
    writer.start_study({}, {}, "")
    writer.start_trial(0, "trial-0", {}, {})
    now = 2_000_000_000_000
    for step, time_ms in ((0, now), (10, now - 3_600_000), (10, now + 5), (20, now - 7)):
        writer.log(0, step, {"val_loss": 1.0 + step}, time_ms)
    assert writer.close(60)
    again = StudyWriter(uri, "name", tmp_path / "x.spool")  # another session
    again.log(0, 20, {"val_loss": 21.0}, now + 9)
    again.log(0, 30, {"val_loss": 31.0}, now - 9)
    again.end_trial(0, Outcome.COMPLETED)
    assert again.close(60)
    client = connect(uri)
    (trial,) = client.search_runs(["1"], "tags.role = 'trial'")
    points = client.get_metric_history(trial.info.run_id, "val_loss")
    assert [point.step for point in points] == [0, 10, 20, 30]
    assert all(point.timestamp == now for point in points)
    assert trial.info.end_time >= now


def test_what_a_damaged_spool_forgets_is_said_again_and_not_twice(tmp_path: Path) -> None:
    uri, path = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "x.spool"
    evaluations = [(step, 1.0 + step, 2_000_000_000_000 + step) for step in (0, 10, 20)]
    writer = StudyWriter(uri, "name", path)
    writer.start_study({}, {}, "")
    writer.start_trial(0, "trial-0", {}, {})
    for step, val_loss, time_ms in evaluations:
        writer.log(0, step, {"val_loss": val_loss}, time_ms)
    writer.end_trial(0, Outcome.COMPLETED)
    assert writer.close(60)
    client = connect(uri)
    lines = path.read_bytes().splitlines(keepends=True)
    for forgotten in ([1], [3], [4], [2, 3, 4], [5]):  # the start of the trial, some evaluations, its end
        path.write_bytes(b"".join(b"x" * (i in forgotten) + line for i, line in enumerate(lines)))
        again = StudyWriter(uri, "name", path)
        if not again.said[0].begun:
            again.start_trial(0, "trial-0", {}, {})
        for step, val_loss, time_ms in evaluations:
            again.log(0, step, {"val_loss": val_loss}, time_ms)
        if again.said[0].open:
            again.end_trial(0, Outcome.COMPLETED)
        assert again.close(60)
        (trial,) = client.search_runs(["1"], "tags.role = 'trial'")
        points = client.get_metric_history(trial.info.run_id, "val_loss")
        assert [(point.step, point.value, point.timestamp) for point in points] == evaluations
        assert trial.info.status == "FINISHED"


def test_ctrl_c_cuts_short_the_last_wait_for_a_server(tmp_path: Path) -> None:
    with socket.socket() as listener:  # accepts, and never answers
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        writer = StudyWriter(f"http://127.0.0.1:{listener.getsockname()[1]}", "name", tmp_path / "x.spool")
        writer.start_study({}, {}, "")
        stop = Stop(None)
        pressed = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        began = time.monotonic()
        with stop.on_signals():
            pressed.start()
            assert not writer.flush(stop.shortened(writer.patience(60), 2))
        assert not writer.close(stop.shortened(writer.patience(60), 2))
    assert 0.5 < time.monotonic() - began < 10
    assert stop.interrupted


def test_files_outside_the_study_are_not_uploaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    spool = Spool(folder / "x.spool")
    spool.close()
    writer = StudyWriter(uri, "name", folder / "x.spool")
    writer.start_study({}, {}, "")
    writer._put(-1, "artifacts", files=["../secret.txt"], folder=None)  # as a spool from elsewhere may say
    assert writer.close(60)
    client = connect(uri)
    (parent,) = client.search_runs(["1"])
    assert client.list_artifacts(parent.info.run_id) == []
    assert "../secret.txt" in caplog.text


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

    monkeypatch.setattr(JournalFileBackend, "append_logs", full)
    searcher.on_trial_complete("t0", result(100))
    searcher.on_trial_complete("t0", error=True)
    searcher.on_trial_error("t0", "Tune takes our error for the trial's")
    monkeypatch.undo()
    assert disk_error(searcher.broken) == "No space left on device"
    assert states(tmp_path / "optuna.journal")[0] is optuna.trial.TrialState.RUNNING


class Evil:
    """What a file from elsewhere may hold: code that runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._mark),)


def test_a_pickle_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    corpus = build_corpus("to be or not to be, that is the question. " * 100)
    training = PRESETS["smoke"].training
    schedule = from_dict({"kind": "constant", "rate": 0.1})
    folder = RunFolder(tmp_path / "run")
    next(folder.run(Trainer(training, schedule, corpus), Labels()))
    state = folder.resume / "step-00000000" / "state.pt"
    mark = tmp_path / "it ran"
    torch.save({"model": Evil(mark)}, state)
    digest = hashlib.sha256(state.read_bytes()).hexdigest()
    (state.parent / "manifest.json").write_text(json.dumps({"state.pt": digest}))
    assert not folder.restore(Trainer(training, schedule, corpus))
    assert not mark.exists()
    assert "damaged" in caplog.text
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists(), "the file would have run code"


def test_a_run_that_is_begun_again_has_each_evaluation_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    corpus = build_corpus("to be or not to be, that is the question. " * 100)
    schedule = from_dict({"kind": "constant", "rate": 0.1})
    for _ in range(3):
        folder = RunFolder(tmp_path / "run")
        evaluations = folder.run(Trainer(PRESETS["smoke"].training, schedule, corpus), Labels())
        assert [next(evaluations).step, next(evaluations).step] == [0, 10]
        evaluations.close()
        assert [row["step"] for row in folder.rows()] == [0, 10]
        folder.finish()  # it died before its first checkpoint


@pytest.mark.parametrize("name", ["..", "a/b", "/tmp/x", "", ".hidden", "a\nb", "a\0b", "x" * 101])
def test_names_of_studies_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        StudyFolder(tmp_path, name)


def test_config_of_another_study_is_refused(tmp_path: Path) -> None:
    mine, other = StudyFolder(tmp_path, "mine"), StudyFolder(tmp_path, "study")
    for folder in (mine, other):
        folder.make()
    other.write_config(CONFIG)
    mine.config.write_bytes(other.config.read_bytes())
    with pytest.raises(UserError, match="it is the config of study 'study'"):
        mine.read_config()
