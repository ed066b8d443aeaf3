"""A study's lock: who holds it, and which holders are dead."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from study.base.errors import UserError
from study.records import lock
from study.records.lock import StudyLock
from tests.conftest import ROOT

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
