"""The writer to MLflow: nothing is lost between processes, and sending twice changes nothing."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from study.base.errors import UserError
from study.base.names import Outcome
from study.base.uris import HIDDEN, kept, redacted
from study.tracking.client import check, connect
from study.tracking.reader import TrackedStudy
from study.tracking.spool import Spool
from study.tracking.writer import StudyWriter, in_order


def waiting(spool: Spool, limit: int = 10) -> list[int]:
    return [event["i"] for _, event in spool.take(limit, timeout=0)]


def test_spool_keeps_what_is_not_sent(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "x.spool")
    for i in range(5):
        spool.put({"i": i})
    assert waiting(spool, 3) == [0, 1, 2]
    spool.remove([0, 1])
    spool.close()
    again = Spool(tmp_path / "x.spool")
    assert waiting(again) == [2, 3, 4]
    again.put({"i": 5})
    again.remove(range(2, 6))
    assert again.wait_empty(lambda: 0.0)
    again.close()
    assert waiting(Spool(tmp_path / "x.spool")) == []


def test_what_is_sent_out_of_order_is_not_given_again_unless_the_process_dies(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "x.spool")
    for i in range(5):
        spool.put({"i": i})
    spool.remove([1, 3])
    assert waiting(spool, 2) == [0, 2]
    spool.close()
    assert waiting(Spool(tmp_path / "x.spool")) == [0, 1, 2, 3, 4]
    spool = Spool(tmp_path / "x.spool")
    spool.remove([1, 3])
    spool.remove([0])
    assert waiting(spool) == [2, 4]
    spool.rewind()
    assert waiting(spool) == [0, 1, 2, 3, 4]
    spool.remove([0, 1])
    spool.close()
    assert waiting(Spool(tmp_path / "x.spool")) == [2, 3, 4]


def test_spool_forgets_half_a_line(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "x.spool")
    spool.put({"i": 0})
    spool.close()
    with (tmp_path / "x.spool").open("ab") as file:
        file.write(b'{"i": 1')  # the process died while it wrote
    again = Spool(tmp_path / "x.spool")
    again.put({"i": 2})
    assert waiting(again) == [0, 2]
    again.close()
    assert waiting(Spool(tmp_path / "x.spool")) == [0, 2]


def test_metrics_of_a_run_go_together_and_wait_for_no_files() -> None:
    said = ["-1 start", "0 start", "1 start", "0 metrics", "1 metrics", "0 metrics", "0 artifacts", "0 end"]
    said += ["1 metrics", "2 start", "2 metrics", "1 tags", "1 metrics", "1 artifacts", "1 artifacts", "2 metrics"]
    said += ["-1 end"]
    events = [{"trial": int(words.split()[0]), "what": words.split()[1]} for words in said]
    now, later = in_order(enumerate(events))
    assert [list(group) for group in now] == [[0], [1], [2], [3, 5], [4, 8, 11, 12], [9], [10, 15]]
    assert [list(group) for group in later] == [[6], [13]]
    left = [(place, event) for place, event in enumerate(events) if place in (7, 14, 16)]
    now, later = in_order(left)
    assert [list(group) for group in now + later] == [[7], [14]]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


def write(writer: StudyWriter) -> None:
    writer.start_study({"space": "dynamic_dropout"}, {"commit": "abc"}, "a note")
    writer.start_trial(0, "trial-0-linear", {"schedule.kind": "linear", "schedule.initial_rate": 0.2}, {})
    for step in (0, 10):
        writer.log(0, step, {"val_loss": 3.0 - step / 100})
    writer.end_trial(0, Outcome.COMPLETED)
    writer.end_study("FINISHED")


def runs(client: MlflowClient, name: str) -> list[Run]:
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_sending_all_again_changes_nothing(uri: str, tmp_path: Path) -> None:
    client = connect(uri)
    writer = StudyWriter(uri, "twice", tmp_path / "x.spool")
    write(writer)
    assert writer.close(30)
    (tmp_path / "x.sent").unlink()  # as if the process had died before it noted that all was sent
    again = StudyWriter(uri, "twice", tmp_path / "x.spool")
    assert again.close(30)
    parent, trial = sorted(runs(client, "twice"), key=lambda run: run.data.tags["role"])
    assert trial.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert trial.data.tags["outcome"] == "completed"
    assert {run.info.status for run in (parent, trial)} == {"FINISHED"}
    history = client.get_metric_history(trial.info.run_id, "val_loss")
    assert [(m.step, m.value) for m in history] == [(0, 3.0), (10, 2.9)]


def test_a_trial_that_goes_on_has_no_outcome_until_it_ends(uri: str, tmp_path: Path) -> None:
    client = connect(uri)
    writer = StudyWriter(uri, "goes-on", tmp_path / "x.spool")
    writer.start_study({}, {}, "")
    writer.start_trial(0, "trial-0", {}, {})
    writer.end_trial(0, Outcome.STOPPED_EARLY, "the study was stopped")
    writer.start_trial(0, "trial-0", {}, {})
    assert writer.close(30)
    (trial,) = [run for run in runs(client, "goes-on") if run.data.tags["role"] == "trial"]
    assert trial.info.status == "RUNNING"
    assert not {"outcome", "reason"} & trial.data.tags.keys()


def test_reading_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no MLflow store"):
        TrackedStudy(f"sqlite:///{tmp_path / 'mlflow.db'}", "study")
    assert list(tmp_path.iterdir()) == []


def test_reading_a_study_that_is_not_there_or_not_ready(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no study nope"):
        TrackedStudy(uri, "nope")
    writer = StudyWriter(uri, "empty", tmp_path / "x.spool")
    writer.start_study({}, {}, "")
    assert writer.close(30)
    with pytest.raises(UserError, match="no completed trial"):
        TrackedStudy(uri, "empty").winner()


def test_no_password_is_shown_or_kept() -> None:
    uri = "https://user:secret@example.org:8080/path"
    assert redacted(uri) == "https://***@example.org:8080/path"
    assert kept(uri, None) == HIDDEN
    assert kept("https://example.org", None) == "https://example.org"
    assert kept(None, None) is None
    with pytest.raises(UserError) as error:
        check("http://user:secret@127.0.0.1:9", create=True)
    assert "secret" not in str(error.value)
