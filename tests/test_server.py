"""A study that writes to a real MLflow server, and its export from a place that has nothing but the server's URI."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.clean_environment import environment
from tests.conftest import run

pytestmark = pytest.mark.slow


def answers(uri: str) -> bool:
    try:
        urllib.request.urlopen(f"{uri}/health", timeout=5).close()
    except OSError:
        return False
    return True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URI of an MLflow server that keeps runs and artifacts to itself."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    folder = tmp_path / "server"
    folder.mkdir()
    store = ["--backend-store-uri", f"sqlite:///{folder / 'runs.db'}", "--artifacts-destination", str(folder / "kept")]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *store]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment() | quiet, stdout=log, stderr=log, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not answers(uri):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "the server did not become ready"
            time.sleep(0.2)  # between two looks at another process
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_export_and_report_from_a_place_that_sees_only_the_server(server: str, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    arguments = ["--preset", "smoke", "--gpus", "0", "--trials", "3", "--name", "study", "--tracking-uri", server]
    done = run(["-m", "study.search", *arguments], here)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in here.iterdir()] == ["studies"], "no store of its own"
    assert f"{server}/#/experiments/" in done.stdout
    done = run(["-m", "study.export", "--study", "study", "--tracking-uri", server], elsewhere)
    assert done.returncode == 0, done.stderr
    exported = yaml.safe_load((elsewhere / "best_schedule.yaml").read_text())
    original = yaml.safe_load((here / "studies" / "study" / "best_schedule.yaml").read_text())
    for file in (exported, original):
        file["provenance"].pop("created")
    assert exported == original
    done = run(["-m", "study.report", "--study", "study", "--tracking-uri", server], elsewhere)
    assert done.returncode == 0, done.stderr
    pages = set(
        re.findall(rf'href="({server}/#/experiments/\d+/runs/[0-9a-f]+)"', (elsewhere / "report.html").read_text())
    )
    assert len(pages) == 3, "a trial each"
    assert pages == set(re.findall(r'href="(http[^"]+)"', (here / "studies" / "study" / "report.html").read_text()))
    assert sorted(path.name for path in elsewhere.iterdir()) == ["best_schedule.yaml", "report.html", "trials.parquet"]
