"""A login in a tracking URI: it goes to the server that it is for, and to no one else, nor onto the screen."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from study.search.results import _ui
from study.tracking.client import check


@contextmanager
def server(answer: int, location: str | None, seen: list[str | None]) -> Iterator[str]:
    """Runs a server that notes the login of each request, and answers all of them alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_response(answer)
            if location is not None:
                self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def test_a_redirect_to_another_server_does_not_get_the_login() -> None:
    ours: list[str | None] = []
    others: list[str | None] = []
    with server(200, None, others) as other, server(302, f"http://{other}/", ours) as host:
        check(f"http://user:secret@{host}", create=True)
    assert all(login is not None and login.startswith("Basic ") for login in ours)
    assert ours
    assert others == [None] * len(ours)


def test_the_printed_address_has_no_login() -> None:
    assert _ui("http://user:secret@host:5000/mlflow/", "7").startswith("http://host:5000/mlflow/#/experiments/7/runs?")
