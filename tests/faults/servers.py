"""A real MLflow server that can be killed, paused and started again at the same address."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.conftest import environment

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class Server:
    """A server that keeps runs and artifacts in its own folder."""

    def __init__(self, folder: Path, *options: str, settings: dict[str, str] | None = None) -> None:
        folder.mkdir()
        self.folder, self._options, self._settings = folder, options, settings or {}
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        """What starts it."""
        store = f"sqlite:///{self.folder / 'runs.db'}"
        kept = ["--backend-store-uri", store, "--artifacts-destination", str(self.folder / "kept")]
        server = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        return [*server, *kept, *self._options]

    @property
    def settings(self) -> dict[str, str]:
        """The environment that it wants."""
        return QUIET | self._settings

    def start(self) -> "Server":
        """Starts it, and waits until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=environment() | self.settings,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait()
        return self

    def wait(self) -> None:
        """Waits until it answers."""
        deadline = time.monotonic() + 120
        while not self.answers():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.2)  # between two looks at another process

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
        except urllib.error.HTTPError:
            return True  # it wants a password
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """Kills it and all that it started."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to all its processes."""
        if self._process is not None:
            os.killpg(self._process.pid, number)
