"""MLflow's client for a tracking URI, after a look at whether anything answers there."""

import logging
import os
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

# MLflow reads these when it is imported, or waits minutes for a server that is down.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

import mlflow
from mlflow import MlflowClient

from study.errors import UserError
from study.uris import redacted

logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # a new store's list of migrations
logging.getLogger("alembic").setLevel(logging.WARNING)

Client = MlflowClient

ANSWER_SECONDS = 5.0


def tracking_uri(given: str | None) -> str:
    """Returns the URI given, or that of MLFLOW_TRACKING_URI, or MLflow's default in the working directory; absolute."""
    uri = given or mlflow.get_tracking_uri()
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path.absolute()}"


def sqlite_path(uri: str) -> Path | None:
    """Returns the database file of an embedded store, or None for a server."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def check(uri: str, *, create: bool) -> None:
    """Looks whether a store can be used, without creating anything.

    Raises:
        UserError: if nothing answers there within seconds, or an embedded store does not exist and is not to be made.
    """
    path = sqlite_path(uri)
    if path is not None:
        if not create and not path.exists():
            raise UserError(f"there is no MLflow store at {path}: give --tracking-uri, or go to the study's folder")
        if not path.parent.is_dir():
            raise UserError(f"tracking URI {redacted(uri)}: there is no folder {path.parent}")
    elif uri.startswith(("http://", "https://")):
        try:
            urlopen(uri.rstrip("/") + "/health", timeout=ANSWER_SECONDS).close()
        except (OSError, ValueError, HTTPException) as error:
            raise UserError(
                f"no MLflow server answers at {redacted(uri)} ({redacted(str(error))}): "
                "start it, or give another --tracking-uri"
            ) from None
    else:
        connect(uri)


def connect(uri: str) -> MlflowClient:
    """Returns a client of the store at `uri`, which is made if it is an embedded one. Raises UserError."""
    try:
        return MlflowClient(tracking_uri=uri)
    except Exception as error:  # whatever the driver of the store raises, it is the URI that does not work
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"tracking URI {redacted(uri)} cannot be used: {reason}") from None
