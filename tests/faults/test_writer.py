"""The process that sends to MLflow: nothing is lost, nothing is told MLflow twice, and no foreign file is sent."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
from mlflow import MlflowClient

from study.base.names import Role
from study.engine.runner import Stop
from study.records.storage import Storage
from study.tracking.client import connect
from study.tracking.mlflow_sender import MLflowSender
from study.tracking.run_record import RunRecord
from study.tracking.writer import StudyWriter
from tests.clean_environment import environment
from tests.run_folders import COMPLETED, PLACE, evaluate, trial

pytestmark = pytest.mark.faults
NOW = 2_000_000_000_000


def test_a_step_is_logged_once_and_in_order(tmp_path: Path, store_uri: str) -> None:
    evaluate(tmp_path, [0, 10, 10, 20], [NOW, NOW - 3_600_000, NOW + 5, NOW - 7])
    writer = StudyWriter(store_uri, "name", tmp_path)
    writer.start_study({}, {}, "")
    writer.describe(trial())
    assert writer.close(60)
    evaluate(tmp_path, [20, 30], [NOW + 9, NOW - 9])
    again = StudyWriter(store_uri, "name", tmp_path)  # another session
    again.start_study({}, {}, "")
    again.describe(trial(**COMPLETED))
    assert again.close(60)
    client = connect(store_uri)
    (child,) = client.search_runs(["1"], "tags.role = 'trial'")
    points = client.get_metric_history(child.info.run_id, "val_loss")
    assert [point.step for point in points] == [0, 10, 20, 30]
    assert all(point.timestamp == NOW for point in points)
    assert child.info.end_time >= NOW


def test_a_damaged_line_holds_up_nothing_and_comes_when_it_is_made_again(tmp_path: Path, store_uri: str) -> None:
    times = [NOW, NOW + 10, NOW + 20]
    file = evaluate(tmp_path, [0, 10, 20], times)
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'"step": 10', b'"step" 10'))
    writer = StudyWriter(store_uri, "name", tmp_path)
    writer.start_study({}, {}, "")
    writer.describe(trial())
    assert writer.flush(60)
    client = connect(store_uri)
    points = client.get_metric_history(writer.runs[0], "val_loss")
    assert [point.step for point in points] == [0, 20]
    file.write_bytes(whole)
    writer.changed(0, 20)
    assert writer.close(60)
    points = client.get_metric_history(writer.runs[0], "val_loss")
    assert [(point.step, point.timestamp) for point in points] == list(zip([0, 10, 20], times, strict=True))


def sender(pid: int) -> psutil.Process:
    """Returns the process that sends to MLflow on behalf of another."""
    (found,) = (p for p in psutil.Process(pid).children() if "study.tracking.sender_process" in " ".join(p.cmdline()))
    return found


@pytest.mark.slow
def test_all_is_sent_once_though_the_process_that_sends_is_killed(
    tmp_path: Path, store_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    writer = StudyWriter(store_uri, "name", tmp_path)
    writer.start_study({}, {}, "")
    evaluate(tmp_path, [0, 10])
    writer.describe(trial())
    assert writer.flush(60)
    run_ids = dict(writer.runs)
    sender(os.getpid()).kill()
    evaluate(tmp_path, [20])
    writer.changed(0, 20)
    writer.describe(trial(**COMPLETED))
    assert writer.close(60)
    assert "the process that sends to MLflow has died" in caplog.text
    assert dict(writer.runs) == run_ids
    points = connect(store_uri).get_metric_history(run_ids[0], "val_loss")
    assert [point.step for point in points] == [0, 10, 20]


def test_what_sends_dies_with_the_session_in_the_middle_of_a_request(tmp_path: Path) -> None:
    with socket.socket() as listener:  # accepts, and never answers
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        session = (
            "from pathlib import Path; from study.tracking.writer import StudyWriter; "
            f"writer = StudyWriter('http://127.0.0.1:{listener.getsockname()[1]}', 'name', Path('study')); "
            "writer.start_study({}, {}, ''); writer.flush(300)"
        )
        process = subprocess.Popen([sys.executable, "-c", session], cwd=tmp_path, env=environment())
        listener.accept()
        sending = sender(process.pid)
        process.kill()
        process.wait()
        sending.wait(8)  # the request itself is given longer


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("method", ["create_run", "log_batch", "log_artifact", "set_terminated"])
def test_whatever_request_fails_all_arrives_once(tmp_path: Path, store_uri: str, method: str, after: bool) -> None:
    """A request may fail before the store has heard of it, or after it has done as it was told."""
    client = connect(store_uri)
    times = [NOW, NOW + 10, NOW + 20]
    evaluate(tmp_path, [0, 10, 20], times)
    (tmp_path / PLACE / "config.yaml").write_text("x")
    records = [
        RunRecord(key=-1, name="name", params={"a": 1}, tags={"b": "c"}, points=(("best_val_loss", 1, 1.0),)),
        trial(params={"d": 2}, closing_files=((f"{PLACE}/config.yaml", "checkpoint"),), **COMPLETED),
    ]
    original = getattr(MlflowClient, method)
    for failing in range(1, 9):  # the first request of the kind, the second, ...
        name, calls = f"{method}-{failing}", iter(range(1, 1 << 30))

        def fails(*args: object, failing: int = failing, calls: object = calls, **kwargs: object) -> object:
            if next(calls) != failing:  # type: ignore[call-overload]
                return original(*args, **kwargs)
            if after:
                original(*args, **kwargs)
            raise ConnectionError

        store = MLflowSender(store_uri, name, tmp_path, Storage(str(tmp_path)), Role.STUDY)
        store.want(records, {})
        with patch.object(MlflowClient, method, fails):
            try:
                store.send(60)
            except ConnectionError:
                store.send(60)
            else:
                break
        assert store.left == 0
        experiment = client.get_experiment_by_name(name)
        (parent,) = client.search_runs([experiment.experiment_id], "tags.role = 'study'")
        (child,) = client.search_runs([experiment.experiment_id], "tags.role = 'trial'")
        assert [point.step for point in client.get_metric_history(parent.info.run_id, "best_val_loss")] == [1]
        points = client.get_metric_history(child.info.run_id, "val_loss")
        assert [(point.step, point.timestamp) for point in points] == list(zip([0, 10, 20], times, strict=True))
        assert (child.info.status, child.data.tags["outcome"]) == ("FINISHED", "completed")
        assert (parent.data.params, child.data.params) == ({"a": "1"}, {"d": "2"})
        assert [file.path for file in client.list_artifacts(child.info.run_id, "checkpoint")] == [
            "checkpoint/config.yaml"
        ]
    assert failing > 1, "no request failed"


def test_a_run_that_someone_has_deleted_stays_deleted(
    tmp_path: Path, store_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(store_uri)
    places = {number: Path("trials", str(number)) for number in (0, 1)}
    for session in range(2):
        writer = StudyWriter(store_uri, "name", tmp_path)
        writer.start_study({}, {}, "")
        for number, place in places.items():
            writer.describe(trial(number, place))
        assert writer.flush(60)
        if session == 0:
            client.delete_run(writer.runs[0])
        for step in (20 * session, 20 * session + 10):
            for number, place in places.items():
                evaluate(tmp_path, [step], place=place)
                writer.changed(number, step)
            assert writer.flush(60)
        assert writer.close(60)
        line = "MLflow cannot take the metrics of trial 0, which is left out: the run was deleted"
        assert caplog.text.count(line) == session + 1
        (child,) = client.search_runs(["1"], "tags.role = 'trial'")
        steps = [point.step for point in client.get_metric_history(child.info.run_id, "val_loss")]
        assert steps == list(range(0, 20 * session + 20, 10))


def test_ctrl_c_cuts_short_the_last_wait_for_a_server(tmp_path: Path) -> None:
    with socket.socket() as listener:  # accepts, and never answers
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        writer = StudyWriter(f"http://127.0.0.1:{listener.getsockname()[1]}", "name", tmp_path)
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


def test_files_outside_the_study_are_not_uploaded(
    tmp_path: Path, store_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "study"
    evaluate(folder, [0])
    (tmp_path / "secret.txt").write_text("secret")
    (folder / PLACE / "config.yaml").symlink_to(tmp_path / "secret.txt")  # as a study from elsewhere may have
    writer = StudyWriter(store_uri, "name", folder)
    writer.start_study({}, {}, "")
    writer.describe(trial())
    writer.describe(trial(**COMPLETED, closing_files=((f"{PLACE}/config.yaml", "checkpoint"),)))
    assert writer.close(60)
    assert connect(store_uri).list_artifacts(writer.runs[0]) == []
    assert "config.yaml is not in the study's folder" in caplog.text
