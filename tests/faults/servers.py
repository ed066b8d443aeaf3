"""A real MLflow server that can be killed, paused and started again at the same address."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.clean_environment import environment

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


@contextmanager
def loses_answers(server: Server, path: str, times: int) -> Iterator[str]:
    """Passes requests on to a server, and loses its first answers to those of a path. Yields its address."""
    left = iter(range(times))

    class Passing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            connection = HTTPConnection("127.0.0.1", server.port)
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if self.path.endswith(path) and next(left, None) is not None:
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PATCH = do_POST  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass  # it would be printed

    with ThreadingHTTPServer(("127.0.0.1", 0), Passing) as proxy:
        thread = Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_port}"
        finally:
            proxy.shutdown()
            thread.join()
