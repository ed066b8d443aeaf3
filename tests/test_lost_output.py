"""Output that no one reads any more, and the signals that come with that: the work goes on, or ends in good order."""

import os
import pty
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from study.base.output import printable
from tests.clean_environment import environment
from tests.conftest import Study, run, start
from tests.services import wait_until

SMOKE = ["-m", "study.search", "--preset", "smoke", "--gpus", "0"]
SCHEDULE = "format: dynamic-dropout-schedule/1\nschedule: {kind: constant, rate: 0.1}\n"
PRINTS = """
import sys
from pathlib import Path
from study.base.errors import exit_status

def command():
    for i in range(2000):
        print("line", i, flush=i % 2 == 0)
        print("warning", i, file=sys.stderr)
    Path("work").write_text("done")
    return 3

sys.exit(exit_status(command))
"""


def shell(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace("python", sys.executable, 1)],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.mark.parametrize(
    "where",
    ["| head -1", "2>&1 | head -1", "> /dev/full", "2> /dev/full", ">&-", "2>&-", ">&- 2>&-", "2>&1 >/dev/full"],
)
def test_work_goes_on_without_its_output(where: str, tmp_path: Path) -> None:
    (tmp_path / "prints.py").write_text(PRINTS)
    done = shell(f"python prints.py {where}", tmp_path)
    assert done.returncode == 3, done.stderr[-2000:]
    assert (tmp_path / "work").read_text() == "done"
    assert "Error" not in done.stdout + done.stderr


def test_a_terminal_of_another_encoding_is_no_error(tmp_path: Path) -> None:
    code = "from study.base.errors import exit_status; exit_status(lambda: print('│ é €') or 0)"
    done = run(["-c", code], tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\u2502 \\xe9 \\u20ac\n", "")


def test_control_characters_are_escaped() -> None:
    assert printable("a\tb\n") == "a\tb\n"
    assert printable("\x1b[2J\x1b]0;title\x07\r\x9b\x7f\ud800") == "\\x1b[2J\\x1b]0;title\\x07\\r\\x9b\\x7f\\ud800"
    assert printable("déjà 中 🎭 \u3000") == "déjà 中 🎭 \u3000"


@pytest.mark.slow
def test_training_ends_with_the_reader_of_its_output(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SCHEDULE)
    train = "python -m study.train --schedule s.yaml --preset smoke --steps 400 --output o"
    done = shell(f"{train} | head -1", tmp_path)
    assert done.returncode == 141, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr  # which model is trained
    done = shell(f"{train} --resume", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "o" / "metrics.jsonl").read_text().splitlines()) == 41


@pytest.mark.slow
def test_a_study_goes_on_when_the_reader_of_its_output_has_ended(tmp_path: Path) -> None:
    done = shell(
        "python " + " ".join([*SMOKE, "--trials", "2", "--steps", "20", "--name", "x"]) + " | head -1", tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "studies" / "x" / "best_schedule.yaml").exists()
    assert (tmp_path / "studies" / "x" / "report.html").exists()


def runs_in(store: Path) -> int:
    """Returns how many runs MLflow has; a client of MLflow would make a store that is not there yet."""
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM runs").fetchone()[0])
    except sqlite3.OperationalError:  # it is being made
        return 0


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


@pytest.mark.slow
@pytest.mark.faults
def test_the_terminal_of_a_study_is_closed(tmp_path: Path) -> None:
    arguments = [sys.executable, *SMOKE, "--trials", "3", "--steps", "100000", "--name", "x"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, arguments, environment() | {"TERM": "xterm"})
    said = b""
    while b"best" not in said or runs_in(tmp_path / "mlflow.db") < 2:
        said += os.read(terminal, 4096)  # the display is drawn ten times a second
    processes = family(psutil.Process(pid))
    os.close(terminal)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 130, said
    psutil.wait_procs(processes, timeout=30)
    assert not [process for process in processes if process.is_running()]
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (parent,) = Study(tmp_path, "x", "").runs("study")
    assert client.get_run(parent.info.run_id).info.status == "KILLED"
    assert all(trial.info.status != "RUNNING" for trial in Study(tmp_path, "x", "").trials().values())


@pytest.mark.slow
@pytest.mark.faults
def test_a_study_is_stopped_while_it_starts(tmp_path: Path) -> None:
    process = start([*SMOKE, "--trials", "1", "--steps", "10", "--name", "x"], tmp_path)
    driver = psutil.Process(process.pid)
    wait_until(lambda: any("gcs_server" in child.name() for child in driver.children()), "Ray's first process", 120)
    processes = family(driver)
    asked = time.monotonic()
    process.terminate()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert err == "interrupted\n"
    assert time.monotonic() - asked < 60
    psutil.wait_procs(processes, timeout=30)
    assert not [process for process in processes if process.is_running()]
    assert not list(tmp_path.iterdir())
