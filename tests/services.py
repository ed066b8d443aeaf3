"""What a cluster stands on, started for real: an S3 server, PostgreSQL, an MLflow server with its login switched on."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clean_environment import environment

KEYS = {"AWS_ACCESS_KEY_ID": "key-of-a-test", "AWS_SECRET_ACCESS_KEY": "secret-of-a-test"}
"""Credentials that the S3 server takes as it takes any."""
READY_SECONDS = 240
ADMIN_PASSWORD = "only-on-loopback"


def need(program: str, package: str) -> str:
    """Returns where a program is. A test that lacks it is skipped, but never where CI is to have installed it."""
    found = shutil.which(program) or next((str(p) for p in Path("/usr/lib/postgresql").glob(f"*/bin/{program}")), None)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{program} is not installed: apt-get install {package}")
    return found


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def wait_until(happened: Callable[[], object], what: str, seconds: float = READY_SECONDS) -> None:
    """Waits for what another process does; fails the test if it does not within some seconds."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)  # between two looks at another process


@contextmanager
def process(
    command: Sequence[str], folder: Path, log: Path, ready: Callable[[], bool], env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a server until the context ends, in a process group of its own."""
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, cwd=folder, env=environment() | dict(env or {}), stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_until(lambda: server.poll() is not None or ready(), f"start of {command[0]}")
        assert server.poll() is None, log.read_text()
        yield server
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@dataclass(frozen=True)
class S3:
    """An S3 server with one empty bucket.

    Attributes:
        log: the file in which it has a line for each request.
    """

    host: str
    port: int
    log: Path
    bucket: str = "studies"

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def uri(self, prefix: str) -> str:
        return f"s3://{self.bucket}/{prefix}?endpoint_override={self.host}:{self.port}&scheme=http&region=us-east-1"


@contextmanager
def s3_server(folder: Path, port: int | None = None, host: str = "127.0.0.1") -> Iterator[S3]:
    """Runs moto's S3 server, which keeps what it gets in memory."""
    server = S3(host, port or free_port(host), folder / "s3.log")
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(server.port)]
    with process(command, folder, server.log, lambda: answers(f"{server.endpoint}/moto-api/"), KEYS):
        urllib.request.urlopen(urllib.request.Request(f"{server.endpoint}/{server.bucket}", method="PUT")).close()
        yield server


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Runs PostgreSQL, which refuses to run as root; returns the URI of an empty database."""
    server, initdb = need("postgres", "postgresql"), need("initdb", "postgresql")
    user = "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
    as_user = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="postgres-") as scratch:  # pytest's own folders are closed to others
        data = Path(scratch, "data")
        (secret := Path(scratch, "secret")).write_text("secret")
        if as_user:
            for path in (Path(scratch), secret):
                shutil.chown(path, user)
        options = ["--username=mlflow", "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--no-sync"]
        made = subprocess.run([*as_user, initdb, "-D", str(data), *options], capture_output=True, text=True, cwd="/")
        assert made.returncode == 0, made.stderr
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": scratch, "fsync": "off"}
        command = [*as_user, server, "-D", str(data), *(f"-c{key}={value}" for key, value in settings.items())]
        log = folder / "postgres.log"
        with process(command, Path("/"), log, lambda: "ready to accept connections" in log.read_text()):
            yield f"postgresql+psycopg://mlflow:secret@127.0.0.1:{port}/postgres"


@contextmanager
def mlflow_server(
    folder: Path,
    store: str,
    artifacts: str,
    env: Mapping[str, str] | None = None,
    *options: str,
    host: str = "127.0.0.1",
) -> Iterator[str]:
    """Runs an MLflow server with one worker; returns its URI, without user and password."""
    port = free_port(host)
    uri = f"http://{host}:{port}"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        host,
        "--port",
        str(port),
        "--workers",
        "1",
        *options,
    ]
    command += ["--backend-store-uri", store, "--artifacts-destination", artifacts]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with process(command, folder, folder / "mlflow.log", lambda: answers(f"{uri}/health"), quiet | dict(env or {})):
        yield uri


@contextmanager
def mlflow_with_login(folder: Path, s3: S3, database: str) -> Iterator[str]:
    """Runs an MLflow server with PostgreSQL, S3 and its login; returns its URI with the administrator's password."""
    config = folder / "login.ini"
    config.write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        f"database_uri = sqlite:///{folder / 'login.db'}\nauth_cache_ttl_seconds = 60\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    env = KEYS | {
        "MLFLOW_S3_ENDPOINT_URL": s3.endpoint,
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN_PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "key-of-a-test",
    }
    artifacts = f"s3://{s3.bucket}/mlflow"
    with mlflow_server(folder, database, artifacts, env, "--app-name", "basic-auth") as uri:
        yield uri.replace("://", f"://admin:{ADMIN_PASSWORD}@")
