"""A study's lock: who holds it, and which holders are dead."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from study.base.errors import UserError
from study.records import lock, store_lock
from study.records.lock import StudyLock
from study.records.storage import Storage
from study.records.store_lock import StoreLock
from study.records.study_layout import StudyFolder
from study.search.session import run_session
from tests.clean_environment import ROOT

pytestmark = pytest.mark.faults


HOLDER = "import sys, time; from pathlib import Path; from study.records.lock import StudyLock; "
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


TAKEN_OVER = "error: study name was taken over by another session while this one was paused or cut off: it ends here\n"


def test_a_holder_whose_lock_was_taken_over_ends_before_it_counts_up_again(path: Path) -> None:
    script = HOLDER.replace("; StudyLock(", "; from study.records import lock; lock.BEAT_SECONDS = 0.1; StudyLock(")
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)
        record = json.dumps({"pid": 7, "host": "elsewhere", "token": "another", "beat": 1}).ljust(lock.RECORD_BYTES)
        path.write_text(record)  # by a machine that the lock of the operating system does not reach
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=60)[1] == TAKEN_OVER
        assert process.returncode == 1
        assert path.read_text() == record
    finally:
        process.kill()
        process.wait()


NOWHERE = "s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"


@pytest.mark.parametrize("kept_in", ["a folder", "an object store"])
def test_a_new_session_touches_no_file_before_it_holds_the_lock(tmp_path: Path, kept_in: str) -> None:
    storage = Storage(str(tmp_path)) if kept_in == "a folder" else Storage(NOWHERE, tmp_path)
    folder = StudyFolder(tmp_path, "name")
    folder.make()
    plan = SimpleNamespace(storage=storage, folder=folder, lock=None, config=SimpleNamespace(name="name"))
    with StudyLock(folder.lock):
        half = folder.path / ".part-1" / "study.yaml"
        half.parent.mkdir()
        half.write_text("another session writes it now")
        with pytest.raises(UserError, match="study name is being run by process"):
            run_session(plan, Console())  # type: ignore[arg-type]
        assert half.exists()


@pytest.fixture
def storage(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Storage:
    for name, seconds in QUICK.items():
        monkeypatch.setattr(store_lock, name, seconds)
    return storage


QUICK = {"LOOK_SECONDS": 0.1, "BEAT_SECONDS": 0.3, "SILENT_SECONDS": 5.0}
HOLDER_IN_STORE = f"""
import os
import sys
from pathlib import Path
from study.records import store_lock
from study.records.storage import Storage
from study.records.uploads import UploadQueue
vars(store_lock).update({QUICK})
storage = Storage(sys.argv[1], Path(sys.argv[2]))
me = {{"pid": os.getpid(), "host": "here"}}
lock = store_lock.StoreLock(storage, storage.folder / "study.locks", me, "study name")
with UploadQueue(storage).running(lambda: 60, lock.check) as uploads:
    print("held", flush=True)
    sys.stdin.readline()
    (storage.folder / "table").write_text("of the session that was paused")
    uploads.put(storage.folder / "table")
    while sys.argv[3] == "checking":
        lock.check()
"""


@contextmanager
def holder_in_store(storage: Storage, then: str = "ending") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER_IN_STORE, storage.uri, str(storage.folder), then]
    storage.folder.mkdir(exist_ok=True)
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def claims(storage: Storage) -> list[str]:
    return [path.suffix for path in storage.list(storage.folder / "study.locks")]


@pytest.mark.slow
def test_of_sessions_that_begin_at_the_same_moment_one_gets_the_lock_in_the_store(storage: Storage) -> None:
    together = threading.Barrier(8)

    def begin(pid: int) -> StoreLock | UserError:
        together.wait()
        try:
            return StoreLock(storage, storage.folder / "study.locks", {"pid": pid, "host": "here"}, "study name")
        except UserError as error:
            return error

    for _ in range(3):
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(begin, [os.getpid()] * 8))
        (winner,) = (answer for answer in got if isinstance(answer, StoreLock))
        refusals = [str(answer) for answer in got if answer is not winner]
        assert [line for line in refusals if "study name is being run by" not in line] == []
        assert claims(storage) == [".held"]
        winner.check()
        winner.release()
        assert claims(storage) == []


@pytest.mark.slow
def test_the_lock_in_the_store_names_its_holder_and_vanishes_with_it(storage: Storage) -> None:
    with holder_in_store(storage) as process:
        with pytest.raises(UserError, match=f"study name is being run by process {process.pid} on here"):
            StoreLock(storage, storage.folder / "study.locks", {}, "study name")
        process.kill()
        process.wait()
        StoreLock(storage, storage.folder / "study.locks", {}, "study name").release()
    assert claims(storage) == []
    elsewhere = storage.folder / "study.locks" / "0.held"
    storage.write(elsewhere, b'{"pid": 7, "host": "elsewhere"}')
    StoreLock(storage, storage.folder / "study.locks", {}, "study name").release()  # it has been silent
    assert claims(storage) == []


@pytest.mark.slow
@pytest.mark.parametrize("then", ["ending", "checking"])  # checking: several threads find the lock gone at once
def test_a_holder_that_was_paused_and_taken_for_dead_uploads_nothing_and_ends(storage: Storage, then: str) -> None:
    with holder_in_store(storage, then) as process:
        process.send_signal(signal.SIGSTOP)
        mine = StoreLock(storage, storage.folder / "study.locks", {"pid": 8, "host": "there"}, "study name")
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=60)[1] == TAKEN_OVER
        assert process.returncode == 1
        assert storage.read(storage.folder / "table") is None
        mine.check()
        mine.release()
