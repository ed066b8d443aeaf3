"""MLflow's client for a tracking URI, after a look at whether anything answers there."""

import base64
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

# MLflow reads these when it is imported, or waits minutes for a server that is down.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from mlflow import MlflowClient

from study.base.errors import UserError
from study.base.uris import absolute, redacted, sqlite_path, sqlite_uri
from study.tracking.local_store import check_file, follow_artifacts, opened_by_one, uri_for_mlflow

logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # its errors reach us, and are said in a line
logging.getLogger("mlflow.utils.databricks_utils").setLevel(logging.ERROR)
logging.getLogger("alembic").setLevel(logging.WARNING)

ANSWER_SECONDS = 3.0
DEFAULT = "mlflow.db"
"""MLflow's default store, a file in the working folder."""


def tracking_uri(given: str | None) -> str:
    """Returns the URI given, or that of MLFLOW_TRACKING_URI, or of MLflow's default in the working folder; absolute.

    MLflow's own function is not asked for the default: it percent-encodes more than MLflow itself understands, and it
    gives a folder `mlruns` of an older MLflow, which MLflow refuses.
    """
    uri = absolute(given or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(Path(DEFAULT)))
    if uri.startswith(("http://", "https://")):
        return uri.partition("#")[0].rstrip("/")  # the address of one of the server's pages, copied from a browser
    return uri


def is_ui_default(uri: str) -> bool:
    """Whether a plain `mlflow ui` in the working folder shows this store; it prefers a store of an older MLflow."""
    is_default = sqlite_path(uri) == Path(DEFAULT).absolute()
    return is_default and not any(Path("mlruns").glob("[0-9]*/meta.yaml"))


def check(uri: str, *, create: bool) -> None:
    """Looks whether a store can be used, without creating an embedded one.

    Raises:
        UserError: if nothing answers there within seconds, or an embedded store does not exist and is not to be made.
    """
    path = sqlite_path(uri)
    if path is not None:
        if not create and not path.exists():
            raise UserError(f"there is no MLflow store at {path}: give --tracking-uri, or go to the study's folder")
        check_file(path, write=create)
    elif uri.startswith(("http://", "https://")):
        try:
            for page in ("/health", "/api/2.0/mlflow/experiments/search?max_results=1"):  # the first needs no login
                urlopen(_request(uri, page), timeout=ANSWER_SECONDS).close()
        except HTTPError as error:
            if error.code in (401, 403):
                raise UserError(
                    f"the MLflow server at {redacted(uri)} refuses this ({error.code} {error.reason}): set "
                    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or let its --allowed-hosts name the host"
                ) from None
            if page == "/health":
                raise UserError(
                    f"no MLflow server answers at {redacted(uri)} ({error.code} {error.reason}): "
                    "start it, or give another --tracking-uri"
                ) from None
        except (OSError, ValueError, HTTPException) as error:
            raise UserError(
                f"no MLflow server answers at {redacted(uri)} ({redacted(str(error))}): "
                "start it, or give another --tracking-uri"
            ) from None
    elif uri.startswith("file:") or not (urlsplit(uri).scheme or uri.startswith("databricks")):
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
            raise UserError(
                f"tracking URI {uri} is a folder, and MLflow no longer writes studies into one: give --tracking-uri "
                f"sqlite:///{DEFAULT}, or the http:// address of an MLflow server"
            )
    else:
        client = connect(uri)
        with _refused(uri):
            client.search_experiments(max_results=1)


def has_experiment(uri: str, name: str) -> bool:
    """Whether a store has an experiment of this name; an embedded one that does not exist is not made for that."""
    path = sqlite_path(uri)
    return (path is None or path.exists()) and connect(uri).get_experiment_by_name(name) is not None


def connect(uri: str) -> MlflowClient:
    """Returns a client of the store at `uri`, which is made if it is an embedded one. Raises UserError."""
    path = sqlite_path(uri)
    with _refused(uri):
        if path is None:
            return MlflowClient(tracking_uri=uri)
        with opened_by_one(path), uri_for_mlflow(uri) as understood:
            client = MlflowClient(tracking_uri=understood)
            follow_artifacts(path)
            return client


@contextmanager
def _refused(uri: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever the driver of the store raises, it is the URI that does not work
        reason = redacted((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]
        raise UserError(
            f"tracking URI {redacted(uri)} cannot be used ({reason}): give the http:// address of an MLflow server, or "
            f"sqlite:///{DEFAULT}"
        ) from None


def _request(uri: str, page: str) -> Request:
    """Returns a request for a server's page, with the user and password that MLflow would give, where they belong."""
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    request = Request(urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", "")) + page)
    user = unquote(parts.username or os.environ.get("MLFLOW_TRACKING_USERNAME", ""))
    password = unquote(parts.password or "") if parts.username else os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if user:
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {login}")
    elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request
