"""Ctrl-C, once and twice, at the worst of times: far from an evaluation, and with a server that hangs."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import run, start, wait_for_a_trial
from tests.faults.checks import check_whole
from tests.faults.servers import Server
from tests.services import KEYS, s3_server

pytestmark = [pytest.mark.slow, pytest.mark.faults]

STUDY = ["-m", "tests.faults.search", "--name", "study"]
NEW = ["--preset", "smoke", "--gpus", "0", "--trials", "3", "--scheduler", "none"]


def wait_for_training(process: "subprocess.Popen[str]", folder: Path) -> None:
    """Waits until both slots are between their first evaluation and the second."""
    while sum(path.stat().st_size > 0 for path in folder.glob("trials/*/in training")) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)  # between two looks at another process


def press(process: "subprocess.Popen[str]", times: int) -> tuple[float, str]:
    """Presses Ctrl-C; returns the seconds until the end, and all that was printed."""
    pressed = time.monotonic()
    try:
        for _ in range(times):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to Ray's processes too
            time.sleep(0.5)  # as a person would
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return time.monotonic() - pressed, out + err


def test_interrupted_once_then_twice_then_resumed(tmp_path: Path) -> None:
    server = Server(tmp_path / "server").start()
    folder = tmp_path / "studies" / "study"
    try:
        process = start([*STUDY, *NEW, "--tracking-uri", server.uri], tmp_path, FAULTS="slow")
        wait_for_training(process, folder)
        server.send(signal.SIGSTOP)
        seconds, output = press(process, times=1)
        server.send(signal.SIGCONT)
        assert process.returncode == 130, output
        assert seconds < 10
        assert "0 of 3 trials have ended. To go on:" in output
        assert "Traceback" not in output

        for mark in folder.glob("trials/*/in training"):
            mark.unlink()
        process = start([*STUDY, "--resume"], tmp_path, FAULTS="slow")
        wait_for_training(process, folder)
        server.send(signal.SIGSTOP)
        seconds, output = press(process, times=2)
        server.send(signal.SIGCONT)
        assert process.returncode == 130, output
        assert seconds < 5
        assert "To go on" not in output, "at once, not in good order"

        done = run(["-m", "study.search", "--name", "study", "--resume"], tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        check_whole(folder, MlflowClient(tracking_uri=server.uri), 3)
    finally:
        server.send(signal.SIGCONT)
        server.kill()


def test_interrupted_while_the_object_store_is_away(tmp_path: Path) -> None:
    with s3_server(tmp_path) as server:
        arguments = ["-u", *STUDY, *NEW, "--steps", "600", "--storage", server.uri("x")]
        process = start(arguments, tmp_path, **KEYS, XDG_CACHE_HOME=str(tmp_path / "cache"))
        wait_for_a_trial(process)
    seconds, output = press(process, times=1)
    assert process.returncode == 130, output
    assert seconds < 10
    assert re.search(r"[12] of 3 trials have ended. To go on:", output), output
    assert "Traceback" not in output
