"""MLflow as a projection of run folders: everything arrives once, and what MLflow has is not sent again."""

import os
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from study.base.errors import UserError
from study.base.names import CHECKPOINT, PARENT_RUN, Outcome, Role
from study.base.uris import HIDDEN, kept, redacted
from study.records.storage import Storage
from study.tracking.client import check, connect
from study.tracking.experiment import has_all
from study.tracking.mlflow_sender import MLflowSender
from study.tracking.reader import TrackedStudy
from study.tracking.run_points import RunPoints
from study.tracking.run_record import RunRecord
from study.tracking.writer import StudyWriter
from tests.run_folders import COMPLETED, PLACE, evaluate, line, trial


def read_steps(points: RunPoints) -> list[int]:
    return [point.step for point in points.read() if point.metric == "val_loss"]


def test_points_are_read_as_lines_are_added(tmp_path: Path) -> None:
    points = RunPoints(tmp_path / PLACE, Storage(str(tmp_path)))
    assert read_steps(points) == []
    file = evaluate(tmp_path, [0, 10])
    assert read_steps(points) == [0, 10]
    assert read_steps(points) == []
    with file.open("ab") as out:
        out.write(line(20) + line(30)[:9])  # a line that is being written
    assert read_steps(points) == [20]
    with file.open("ab") as out:
        out.write(line(30)[9:])
    assert read_steps(points) == [30]


def test_a_file_that_takes_the_place_of_another_is_read_anew(tmp_path: Path) -> None:
    points = RunPoints(tmp_path / PLACE, Storage(str(tmp_path)))
    file = evaluate(tmp_path, [0, 10])
    read_steps(points)
    for steps in ([0, 10, 20], [0, 5, 10, 20, 30], [0]):
        (new := file.with_name("new")).write_bytes(b"".join(line(step, "completed") for step in steps))
        new.replace(file)
        assert read_steps(points) == (steps if steps[0] == 0 else [])
    with file.open("ab") as out:
        out.write(line(40))
    assert read_steps(points) == [40]


def test_damaged_lines_are_left_out(tmp_path: Path) -> None:
    file = evaluate(tmp_path, [0, 10, 20])
    file.write_bytes(file.read_bytes().replace(b'"step": 10', b'"step" 10'))
    assert read_steps(RunPoints(tmp_path / PLACE, Storage(str(tmp_path)))) == [0, 20]


def test_an_evaluation_keeps_its_first_time_and_without_one_has_that_of_its_file(tmp_path: Path) -> None:
    file = evaluate(tmp_path, [0, 10], [1_000, 2_000])
    evaluate(tmp_path, [], [])
    (file.parent / "times.txt").open("a").write("10 5000\n20 half a line")
    with file.open("ab") as out:
        out.write(line(20))
    os.utime(file, (9, 9))
    points = RunPoints(tmp_path / PLACE, Storage(str(tmp_path))).read()
    assert [(p.step, p.time_ms) for p in points if p.metric == "val_loss"] == [(0, 1_000), (10, 2_000), (20, 9_000)]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


def write(writer: StudyWriter) -> None:
    writer.start_study({"space": "dynamic_dropout"}, {"commit": "abc"}, "a note")
    params = {"schedule.kind": "linear", "schedule.initial_rate": 0.2}
    writer.describe(trial(params=params, **COMPLETED, closing_files=((f"{PLACE}/model.safetensors", CHECKPOINT),)))
    writer.log(1, {"best_val_loss": 0.5})
    writer.end_study("FINISHED")


def study(name: str, **more: Any) -> RunRecord:
    return RunRecord(key=PARENT_RUN, name=name, params={}, tags={}, **more)


def session(uri: str, root: Path, *records: RunRecord) -> MLflowSender:
    """Sends what MLflow lacks of some runs, as a session that knows of nothing else does."""
    store = MLflowSender(uri, records[0].name, root, Storage(str(root)), Role.STUDY)
    store.want(records, {})
    store.send(60)
    store.send(60)  # the study's end comes in a round of its own
    return store


def runs(client: MlflowClient, name: str) -> list[Run]:
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_sending_all_again_changes_nothing(uri: str, tmp_path: Path) -> None:
    client = connect(uri)
    evaluate(tmp_path, [0, 10])
    (tmp_path / PLACE / "model.safetensors").write_bytes(b"weights")
    for _ in range(2):  # two sessions
        writer = StudyWriter(uri, "twice", tmp_path)
        write(writer)
        assert writer.close(30)
    parent, child = sorted(runs(client, "twice"), key=lambda run: run.data.tags["role"])
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["outcome"] == "completed"
    assert child.data.tags["mlflow.runName"] == "trial-0"
    assert child.data.params == {"schedule.kind": "linear", "schedule.initial_rate": "0.2"}
    assert {run.info.status for run in (parent, child)} == {"FINISHED"}
    history = client.get_metric_history(child.info.run_id, "val_loss")
    assert [(m.step, m.value) for m in history] == [(0, 1.0), (10, 11.0)]
    assert [(m.step, m.value) for m in client.get_metric_history(parent.info.run_id, "best_val_loss")] == [(1, 0.5)]
    assert [file.path for file in client.list_artifacts(child.info.run_id, CHECKPOINT)] == [
        "checkpoint/model.safetensors"
    ]


def test_a_round_costs_what_has_changed(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()
    for name in ("search_runs", "get_metric_history", "create_run", "log_batch", "set_terminated", "log_artifact"):
        method = getattr(MlflowClient, name)

        def counted(self: Any, *args: Any, name: str = name, method: Any = method, **kwargs: Any) -> Any:
            calls[name] += 1
            return method(self, *args, **kwargs)

        monkeypatch.setattr(MlflowClient, name, counted)

    places = {number: Path("trials", str(number)) for number in range(20)}
    for place in places.values():
        evaluate(tmp_path, range(0, 50, 10), place=place)
    ended = [trial(number, place, params={"a": 1}, **COMPLETED) for number, place in places.items()]
    going_on = trial(20, Path("trials/20"))

    def store() -> MLflowSender:
        return session(uri, tmp_path, study("costs"), *ended, going_on)

    first = store()
    assert first.left == 0
    assert first.points_sent == 20 * 5 * 7
    calls.clear()
    evaluate(tmp_path, [0, 10], place=Path("trials/20"))
    first.want([], {20: 10})
    first.send(60)
    assert calls == {"log_batch": 1}
    assert first.points_sent == 20 * 5 * 7 + 2 * 7
    calls.clear()
    first.send(60)
    assert not calls

    again = store()  # another session: of runs that MLflow has whole, only their ends are looked at
    assert again.left == again.points_sent == 0
    assert calls == {"search_runs": 3, "get_metric_history": 7}, "a search a role; metrics of the run that goes on"


def test_a_trial_that_goes_on_has_no_outcome_until_it_ends(uri: str, tmp_path: Path) -> None:
    client = connect(uri)
    ends: list[tuple[str, dict[str, str]]] = [
        ("KILLED", {"outcome": "stopped_early", "reason": "the study was stopped"}),
        ("RUNNING", {}),
        ("FINISHED", {"outcome": "completed"}),
    ]
    for step, (status, tags) in enumerate(ends):
        evaluate(tmp_path, [step])
        session(uri, tmp_path, study("goes-on"), trial(status=status, end_tags=tags, is_final=status == "FINISHED"))
        (run,) = [run for run in runs(client, "goes-on") if run.data.tags["role"] == "trial"]
        assert run.info.status == status
        assert {key: run.data.tags[key] for key in ("outcome", "reason") if key in run.data.tags} == tags
    points = client.get_metric_history(run.info.run_id, "val_loss")
    assert [point.step for point in points] == [0, 1, 2]


def test_a_trial_that_is_stopped_twice_keeps_what_it_made_between(uri: str, tmp_path: Path) -> None:
    """The second session has no MLflow, and the third one finds the trial as the first one left it."""
    stopped = trial(status="KILLED", end_tags={"outcome": "stopped_early", "reason": "the study was stopped"})
    for steps in ([0], [10, 20]):
        evaluate(tmp_path, steps)
        session(uri, tmp_path, study("stopped"), stopped)
    (run,) = [run for run in runs(connect(uri), "stopped") if run.data.tags["role"] == "trial"]
    points = connect(uri).get_metric_history(run.info.run_id, "val_loss")
    assert [point.step for point in points] == [0, 10, 20]


def test_a_study_is_settled_when_mlflow_has_its_end_and_all_trials(uri: str, tmp_path: Path) -> None:
    def settled(*numbers: int, at: str = uri) -> bool | None:
        return has_all(at, "settled", Role.STUDY, dict.fromkeys(numbers, Outcome.COMPLETED))

    assert settled() is False
    for status, expected in (("KILLED", False), ("FINISHED", True), ("FAILED", True)):
        session(uri, tmp_path, study("settled", status=status), trial(**COMPLETED))
        assert settled(0) is expected
    assert settled(0, 1) is False
    assert settled(at=f"sqlite:///{tmp_path / 'none.db'}") is False
    assert not (tmp_path / "none.db").exists()
    assert settled(0, at="http://127.0.0.1:9") is None


def test_reading_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no MLflow store"):
        TrackedStudy(f"sqlite:///{tmp_path / 'mlflow.db'}", "study")
    assert list(tmp_path.iterdir()) == []


def test_reading_a_study_that_is_not_there_or_not_ready(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no study nope"):
        TrackedStudy(uri, "nope")
    writer = StudyWriter(uri, "empty", tmp_path)
    writer.start_study({}, {}, "")
    assert writer.close(30)
    with pytest.raises(UserError, match="no completed trial"):
        TrackedStudy(uri, "empty").winner()


def test_a_winner_whose_config_was_deleted_is_a_mistake_of_one_line(uri: str, tmp_path: Path) -> None:
    folder = tmp_path / PLACE
    evaluate(tmp_path, [0, 10], [1_000, 2_000])
    (folder / "config.yaml").write_text("format: dynamic-dropout-schedule/1\nschedule: {kind: constant, rate: 0.1}\n")
    config = trial(params={}, **COMPLETED, closing_files=((f"{PLACE}/config.yaml", CHECKPOINT),))
    session(uri, tmp_path, study("deleted", status="FINISHED"), config)
    winner = TrackedStudy(uri, "deleted").winner()
    assert winner.file.schedule.to_dict() == {"kind": "constant", "rate": 0.1}
    run = MlflowClient(uri).get_run(winner.run_id)
    (Path(url2pathname(urlparse(run.info.artifact_uri).path)) / CHECKPOINT / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"trial 0 of study deleted has no artifact checkpoint/config.yaml in MLflow"):
        TrackedStudy(uri, "deleted").winner()


def test_no_password_is_shown_or_kept() -> None:
    uri = "https://user:secret@example.org:8080/path"
    assert redacted(uri) == "https://***@example.org:8080/path"
    assert kept(uri, None) == HIDDEN
    assert kept("https://example.org", None) == "https://example.org"
    assert kept(None, None) is None
    with pytest.raises(UserError) as error:
        check("http://user:secret@127.0.0.1:9", create=True)
    assert "secret" not in str(error.value)
