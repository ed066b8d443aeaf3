"""The storage of a study, on a real S3 server: what is in it is whole at any moment, and a trial goes on from it."""

import math
import shutil
import urllib.request
from pathlib import Path
from typing import IO

import pytest

from model.schedules import Constant
from study.base.errors import UserError
from study.corpus import load_corpus
from study.records.downloads import download_files, download_folder
from study.records.expected_files import has_come, wait_for_all
from study.records.storage import Storage
from study.records.study_layout import StudyFolder, trial_place
from study.records.uploads import UploadQueue, open_run
from study.training.config import PRESETS
from study.training.evaluation_rows import Labels
from study.training.run_folder import RunFolder
from study.training.trainer import Trainer
from tests.services import KEYS, S3, s3_server

TRAINING = PRESETS["smoke"].training


@pytest.fixture
def storage(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr("study.training.run_folder.CHECKPOINT_SHARE", math.inf)  # one after every evaluation
    return storage


def elsewhere(storage: Storage, folder: Path) -> Storage:
    """The same storage, as another machine sees it."""
    return Storage(storage.uri, folder / "elsewhere")


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("nope://x", "nope://x: give a folder, or a URI of s3,"),
        ("s3://key:secret@bucket/x", "s3://***@bucket/x holds a secret"),
        ("s3://bucket/x?nope=1&endpoint_override=localhost", "nope"),
        ("s3://?endpoint_override=localhost", "names no bucket"),
    ],
)
def test_uris_that_are_refused(uri: str, named: str) -> None:
    with pytest.raises(UserError) as error:
        Storage(uri)
    assert named in str(error.value)
    assert "secret@" not in str(error.value)


@pytest.mark.slow
def test_a_bucket_that_does_not_exist_is_a_users_mistake(server: S3, storage: Storage) -> None:
    storage.check()
    with pytest.raises(UserError, match="NO_SUCH_BUCKET"):
        Storage(server.uri("x").replace("studies", "nowhere")).check()


@pytest.mark.slow
def test_the_store_gets_what_was_put_and_keeps_it_when_the_local_files_are_gone(
    storage: Storage, tmp_path: Path
) -> None:
    study = storage.folder / "study"
    (study / "trials").mkdir(parents=True)
    config, journal, table = study / "study.yaml", study / "optuna.journal", study / "table"
    config.write_text("a: 1")
    journal.write_bytes(b'{"whole": 1}\n{"ha')
    (study / "trials" / "x").write_text("another's")
    with UploadQueue(storage, [journal]).running(lambda: 60) as uploads:
        uploads.put(config)
        assert uploads.flush(60)
        config.write_text("a: 2")
        table.write_text("1")
        uploads.put(config, table)
        with journal.open("ab") as file:
            file.write(b'lf": 2}\n')
        assert uploads.flush(60)
        config.write_text("a: 3")  # no one has put it
        shutil.rmtree(study)
        study.mkdir()
        journal.write_bytes(b'{"a torso of the journal, much longer than it was before, of the same name": 3}\n')
        assert uploads.flush(60)
    there = elsewhere(storage, tmp_path)
    copy = there.folder / "study"
    download_folder(there, copy)
    assert {path.name: path.read_text() for path in copy.rglob("*") if path.is_file()} == {
        "study.yaml": "a: 2",
        "optuna.journal": '{"whole": 1}\n{"half": 2}\n',
        "table": "1",
    }


@pytest.mark.slow
def test_a_folder_is_removed_from_the_store_when_this_is_asked_and_the_delay_is_over(storage: Storage) -> None:
    study = storage.folder / "study"
    names = ("run/resume/step-1/state.pt", "run/resume/step-1/manifest.json", "run/resume-2", "other/resume/x")
    for path in (paths := [study / name for name in names]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    with UploadQueue(storage, delay=600).running(lambda: 60) as uploads:
        uploads.put(*paths)
        assert uploads.flush(60)
        uploads.remove(study / "run" / "resume")
        uploads.remove(study / "other")
        assert not (study / "run" / "resume").exists()
        assert uploads.flush(60)
        assert set(storage.list(study)) == set(paths), "a worker may still write there"
        paths[3].parent.mkdir(parents=True)
        paths[3].write_text("2")
        uploads.put(paths[3])  # it is written anew
    assert set(storage.list(study)) == {paths[2], paths[3]}
    assert storage.read(paths[3]) == b"2"


@pytest.mark.slow
def test_a_driver_downloads_the_files_that_it_names_and_the_store_decides(storage: Storage, tmp_path: Path) -> None:
    study = storage.folder / "study"
    (study / "trials" / "00000").mkdir(parents=True)
    names = ("optuna.journal", "report.html", "trials/00000/model.safetensors")
    for name in names:
        (study / name).write_text("from the store\n")
    with UploadQueue(storage).running(lambda: 60) as uploads:
        uploads.put(*(study / name for name in names))
    folder = StudyFolder(elsewhere(storage, tmp_path).folder, "study")
    folder.path.mkdir(parents=True)
    for path in (folder.journal, folder.table):
        path.write_text("left of a session that died\n")
    download_files(elsewhere(storage, tmp_path), folder.grown)
    assert {path.name: path.read_text() for path in folder.path.rglob("*") if path.is_file()} == {
        "optuna.journal": "from the store\n",
        "trials.parquet": "left of a session that died\n",
    }


@pytest.mark.slow
@pytest.mark.parametrize("key", ["../../evil", "a/../../../evil", "/etc/evil", "./evil", "a//evil"])
def test_a_key_that_leaves_the_folder_is_left_out(
    server: S3, storage: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    study = storage.folder / "study"
    storage.write(study / "good", b"1")
    address = f"{server.endpoint}/{server.bucket}/{tmp_path.name}/study/{key.replace('.', '%2E')}"
    urllib.request.urlopen(urllib.request.Request(address, data=b"evil", method="PUT")).close()
    assert storage.list(study) == [study / "good"]
    assert "evil' in the object store is no path of a file: it is left out" in caplog.text
    download_folder(storage, study)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["good"]


def train(storage: Storage, until: int = TRAINING.steps) -> list[tuple[int, float]]:
    """Trains trial 7 until a step, and dies there; returns what it said."""
    said = []
    with open_run(storage.uri, "study", trial_place(7)) as (folder, uploads):
        trainer = Trainer(TRAINING, Constant(0.2), load_corpus("shakespeare"))
        for progress in folder.run(trainer, Labels(study="study", trial=7)):
            uploads.flush()
            said.append((progress.step, progress.val_loss))
            if progress.step == until:
                break
    return said


@pytest.mark.slow
def test_a_trial_goes_on_elsewhere_bit_for_bit(storage: Storage, tmp_path: Path) -> None:
    whole = train(Storage(storage.uri.replace("?", "/whole?", 1)))
    assert [step for step, _ in whole] == list(range(0, 61, 10))
    assert train(storage, until=30) == whole[:4]
    assert train(storage) == whole[3:]
    run = StudyFolder(storage.folder, "study").trial(7)
    assert has_come(storage, run, 60)
    assert [(row["step"], row["val_loss"]) for row in run.rows()] == whole
    with storage.present(run.weights) as weights:
        assert weights.stat().st_size > 0
    assert not run.weights.exists()


@pytest.mark.slow
def test_of_a_damaged_checkpoint_the_one_before_it_is_taken(storage: Storage) -> None:
    whole = train(storage, until=40)
    run = StudyFolder(storage.folder, "study").trial(7)
    newest, older = sorted((path for path in storage.list(run.resume) if path.name == "state.pt"), reverse=True)
    assert (newest.parent.name, older.parent.name) == ("step-00000040", "step-00000030")
    storage.fetch(newest)
    newest.write_bytes(newest.read_bytes()[:-100] + bytes(100))
    with newest.open("rb") as file:
        storage.send(file, newest, newest.stat().st_size)
    assert train(storage, until=40) == whole[3:]


@pytest.mark.slow
def test_a_store_that_is_away_holds_up_nothing_and_lacks_nothing_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("study.records.uploads.RETRY_SECONDS", 0.2)
    with s3_server(tmp_path) as server:
        storage = Storage(server.uri("x"), tmp_path / "here")
    study = storage.folder / "study"
    study.mkdir(parents=True)
    (study / "study.yaml").write_text("a: 1")
    uploads = UploadQueue(storage)
    with uploads.running(lambda: 60):
        uploads.put(study / "study.yaml")
        asked = uploads.ask()
        assert not uploads.flush(1)
        assert not uploads.has(asked)
        with s3_server(tmp_path, server.port):
            assert uploads.flush(60)
            assert uploads.has(asked)
            there = elsewhere(storage, tmp_path)
            download_folder(there, there.folder / "study")
    assert (there.folder / "study" / "study.yaml").read_text() == "a: 1"


@pytest.mark.slow
def test_a_store_that_lacks_evaluations_still_answers(storage: Storage) -> None:
    steps = {RunFolder(storage.folder / "study" / "trials" / f"{number:05d}"): 10 for number in range(40)}
    assert wait_for_all(storage, steps, seconds=1, patience=1)


@pytest.mark.slow
def test_evaluations_in_a_store_that_is_away_are_missing_and_this_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    with s3_server(tmp_path) as server:
        storage = Storage(server.uri("x"), tmp_path / "here")
    assert not wait_for_all(storage, {RunFolder(storage.folder / "study" / "trials" / "00003"): 10}, seconds=0)
    assert "of trials 00003 the storage lacks the last evaluations" in caplog.text


@pytest.mark.slow
def test_what_is_in_the_store_names_nothing_that_is_not(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks into the store after every single file that is sent, while a trial is written as fast as it can be."""
    send, seen = Storage.send, set()
    run = StudyFolder(storage.folder, "study").trial(7)

    def looked_at(self: Storage, file: IO[bytes], path: Path, size: int) -> None:
        send(self, file, path, size)
        names = {str(path.relative_to(self.folder)) for path in self.list(self.folder / "study")}
        for name in names:
            if name.endswith("manifest.json"):
                assert name.replace("manifest.json", "state.pt") in names
            if name.endswith("metrics.jsonl"):
                assert name.replace("metrics.jsonl", "model.safetensors") in names
        seen.update(names)

    monkeypatch.setattr(Storage, "send", looked_at)
    monkeypatch.setattr("study.records.uploads.PAUSE_SECONDS", 0)
    monkeypatch.setattr("study.records.uploads.SHARE", 0.99)
    train(storage)
    assert sum(name.endswith("manifest.json") for name in seen) >= 2
    assert storage.holds(run.weights)


@pytest.mark.slow
def test_evaluations_are_sent_no_further_than_the_weights_beside_them(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = StudyFolder(storage.folder, "study").trial(7)
    run.path.mkdir(parents=True)
    run.weights.write_bytes(b"of step 0")
    run.metrics.write_text("step 0\n")
    send, uploads = Storage.send, UploadQueue(storage)

    def while_it_goes_on(self: Storage, file: IO[bytes], path: Path, size: int) -> None:
        send(self, file, path, size)
        if path == run.weights and path.read_bytes() == b"of step 0":
            run.weights.with_name(".part").write_bytes(b"of step 10")
            run.weights.with_name(".part").rename(run.weights)
            with run.metrics.open("a") as metrics:
                metrics.write("step 10\nste")
            uploads.put(run.weights, run.metrics)

    monkeypatch.setattr(Storage, "send", while_it_goes_on)
    uploads.put(run.weights, run.metrics)
    uploads._send_all()
    assert (storage.read(run.weights), storage.read(run.metrics)) == (b"of step 0", b"step 0\n")
    uploads._send_all()
    assert (storage.read(run.weights), storage.read(run.metrics)) == (b"of step 10", b"step 0\nstep 10\n")
