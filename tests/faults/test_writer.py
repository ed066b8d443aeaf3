"""The spool and what sends it: nothing is lost, nothing is told MLflow twice, and no foreign file is sent."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from study.base.names import Outcome
from study.engine.runner import Stop
from study.tracking.client import connect
from study.tracking.spool import Spool
from study.tracking.writer import StudyWriter, is_settled
from tests.conftest import environment

pytestmark = pytest.mark.faults


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


def sender(pid: int) -> psutil.Process:
    """Returns the process that sends to MLflow on behalf of another."""
    (found,) = (p for p in psutil.Process(pid).children() if "study.tracking.process" in " ".join(p.cmdline()))
    return found


def test_all_is_sent_once_though_the_process_that_sends_is_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    writer = StudyWriter(uri, "name", tmp_path / "x.spool")
    writer.start_study({}, {}, "")
    writer.start_trial(0, "trial-0", {}, {})
    for step in (0, 10):
        writer.log(0, step, {"val_loss": 1.0 + step})
    assert writer.flush(60)
    run_ids = dict(writer.runs)
    sender(os.getpid()).kill()
    writer.log(0, 20, {"val_loss": 21.0})
    writer.end_trial(0, Outcome.COMPLETED)
    assert writer.close(60)
    assert "the process that sends to MLflow has died" in caplog.text
    assert dict(writer.runs) == run_ids
    points = connect(uri).get_metric_history(run_ids[0], "val_loss")
    assert [point.step for point in points] == [0, 10, 20]


def test_what_sends_dies_with_the_session_in_the_middle_of_a_request(tmp_path: Path) -> None:
    with socket.socket() as listener:  # accepts, and never answers
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        session = (
            "from pathlib import Path; from study.tracking.writer import StudyWriter; "
            f"writer = StudyWriter('http://127.0.0.1:{listener.getsockname()[1]}', 'name', Path('x.spool')); "
            "writer.start_study({}, {}, ''); writer.flush(300)"
        )
        process = subprocess.Popen([sys.executable, "-c", session], cwd=tmp_path, env=environment())
        listener.accept()
        sending = sender(process.pid)
        process.kill()
        process.wait()
        sending.wait(8)  # the request itself is given longer


@pytest.mark.slow
@pytest.mark.parametrize("was_sent", [True, False])
def test_what_a_damaged_spool_forgets_is_said_again_and_not_twice(tmp_path: Path, was_sent: bool) -> None:
    uri, name, path = f"sqlite:///{tmp_path / 'mlflow.db'}", "name", tmp_path / "x.spool"
    evaluations = [(step, 1.0 + step, 1_700_000_000_000 + step) for step in (0, 10, 20)]
    writer = StudyWriter(uri, name, path)
    writer.start_study({}, {}, "")
    writer.start_trial(0, "trial-0", {}, {})
    for step, val_loss, time_ms in evaluations:
        writer.log(0, step, {"val_loss": val_loss}, time_ms)
    writer.end_trial(0, Outcome.COMPLETED)
    assert writer.close(60)
    client = connect(uri)
    lines = path.read_bytes().splitlines(keepends=True)
    # the start of the study, of the trial, some evaluations, the trial's end
    for case, forgotten in enumerate(([0], [1], [0, 1], [3], [4], [2, 3, 4], [5])):
        path.write_bytes(b"".join(b"x" * (i in forgotten) + line for i, line in enumerate(lines)))
        if not was_sent:
            name = f"name-{case}"
            path.with_suffix(".sent").unlink(missing_ok=True)
        again = StudyWriter(uri, name, path)
        again.start_study({}, {}, "")
        if not again.said[0].begun:
            again.start_trial(0, "trial-0", {}, {})
        for step, val_loss, _ in evaluations:  # as the trial's folder has them
            again.log(0, step, {"val_loss": val_loss})
        if again.said[0].open:
            again.end_trial(0, Outcome.COMPLETED)
        assert again.close(60)
        (trial,) = client.search_runs([again.experiment_id], "tags.role = 'trial'")
        points = client.get_metric_history(trial.info.run_id, "val_loss")
        assert [(point.step, point.value) for point in points] == [(step, value) for step, value, _ in evaluations]
        times = [point.timestamp for point in points]
        is_known = was_sent or forgotten in ([0], [1], [0, 1], [5])
        assert times == ([time_ms for *_, time_ms in evaluations] if is_known else sorted(times)), forgotten
        assert trial.info.status == "FINISHED"
        assert trial.info.run_name == "trial-0"


def test_a_run_that_someone_has_deleted_stays_deleted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    writer = StudyWriter(uri, "name", tmp_path / "x.spool")
    writer.start_study({}, {}, "")
    for number in (0, 1):
        writer.start_trial(number, f"trial-{number}", {}, {})
    assert writer.flush(60)
    client = connect(uri)
    client.delete_run(writer.runs[0])
    for step in (0, 10):
        for number in (0, 1):
            writer.log(number, step, {"val_loss": 1.0})
        assert writer.flush(60)
    assert writer.close(60)
    assert caplog.text.count("MLflow cannot take the metrics of trial 0, which is left out") == 2
    (trial,) = client.search_runs(["1"], "tags.role = 'trial'")
    assert [point.step for point in client.get_metric_history(trial.info.run_id, "val_loss")] == [0, 10]


def test_a_study_that_was_stopped_has_more_to_say(tmp_path: Path) -> None:
    for status, settled in (("KILLED", False), ("FINISHED", True)):
        writer = StudyWriter(f"sqlite:///{tmp_path / 'mlflow.db'}", "name", tmp_path / "x.spool")
        writer.start_study({}, {}, "")
        writer.end_study(status)
        assert writer.close(60)
        assert is_settled(tmp_path / "x.spool") is settled


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
