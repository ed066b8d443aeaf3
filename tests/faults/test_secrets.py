"""A study on a real server with a login: the password is in no file, and nowhere that is printed."""

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from tests.conftest import run, start
from tests.faults.servers import Server
from tests.faults.test_outages import wait_for_a_trial

pytestmark = [pytest.mark.slow, pytest.mark.faults]

PASSWORD = "Correct-Horse-7391"
AWS = "aWsSeCrEt0123456789"
NEW = ["-m", "study.search", "--preset", "smoke", "--gpus", "0", "--steps", "20", "--trials", "2"]


def files_with(secret: str, *folders: Path, since: float = 0.0) -> list[Path]:
    """Returns the files that hold a secret."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if path.stat().st_mtime >= since and secret.encode() in path.read_bytes()]


def test_password_of_the_server_is_written_and_shown_nowhere(tmp_path: Path) -> None:
    settings = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "0123456789", "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD}
    server = Server(tmp_path / "server", "--app-name", "basic-auth", settings=settings)
    uri = server.uri.replace("//", f"//admin:{PASSWORD}@")
    secrets = {"AWS_SECRET_ACCESS_KEY": AWS, "MLFLOW_TRACKING_URI": uri}
    here = tmp_path / "here"
    here.mkdir()
    began = time.time() - 1
    server.start()
    try:
        done = run([*NEW, "--name", "study"], here, **secrets)
        assert done.returncode == 0, done.stdout + done.stderr
        export = run(["-m", "study.export", "--study", "study"], here, **secrets)
        assert export.returncode == 0, export.stderr
        wrong = run([*NEW, "--name", "other"], here, MLFLOW_TRACKING_URI=uri.replace("7391", "7392"))
    finally:
        server.kill()
    gone = run([*NEW, "--name", "other"], here, **secrets)
    process = start(["-u", "-m", "study.search", "--name", "study", "--resume", "--trials", "3"], here, **secrets)
    try:
        resumed = wait_for_a_trial(process)
        os.kill(process.pid, signal.SIGINT)  # it waits for the server
        resumed += "".join(process.communicate(timeout=60))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert gone.returncode == 2, gone.stdout
    assert process.returncode == 130, resumed
    assert "no MLflow server answers at http://***@127.0.0.1" in resumed
    assert wrong.returncode == 2, wrong.stdout
    assert "refuses this (401" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1
    printed = "".join(p.stdout + p.stderr for p in (done, export, wrong, gone)) + resumed
    for secret in (PASSWORD, PASSWORD.replace("7391", "7392"), AWS):
        assert secret not in printed
        assert files_with(secret, here, server.folder) == []
    assert files_with(PASSWORD, Path(tempfile.gettempdir()) / "ray", since=began) == [], "Ray's logs"
    assert (
        "the tracking URI of the study held a password"
        in run(["-m", "study.search", "--name", "study", "--resume"], here).stderr
    )
