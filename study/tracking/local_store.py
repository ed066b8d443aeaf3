"""An MLflow store that is an SQLite file: who may open it, and where its artifacts lie."""

import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from study.base.errors import UserError
from study.base.uris import sqlite_path, sqlite_uri

log = logging.getLogger(__name__)
ARTIFACTS = "mlruns"
"""The folder beside the SQLite file that has the artifacts; MLflow's own name for it."""

ARTIFACT_ROOT = "_MLFLOW_SERVER_ARTIFACT_ROOT"
"""MLflow's own variable. MLflow puts its default into SQL as it is, and fails if the path has both kinds of quotes."""


def check_file(path: Path, *, write: bool) -> None:
    """Looks whether an SQLite file, or the place for one, can be used: MLflow would retry for minutes.

    Raises:
        UserError: names the file and the reason.
    """
    if not path.parent.is_dir():
        raise UserError(f"MLflow store {path}: there is no folder {path.parent}: make it, or give --tracking-uri")
    needed = os.W_OK | os.X_OK if write else os.X_OK
    if not os.access(path.parent, needed):
        raise UserError(f"MLflow store {path}: its folder may not be written: give another --tracking-uri")
    if not path.exists():
        return
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise UserError(f"MLflow store {path} is {kind}: give --tracking-uri, as sqlite:///other.db, or move it away")
    if not os.access(path, os.R_OK | (os.W_OK if write else 0)):
        raise UserError(f"MLflow store {path} may not be {'written' if write else 'read'}: give another --tracking-uri")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            database.execute("PRAGMA schema_version").fetchall()
    except sqlite3.OperationalError:
        pass  # locked by another process, or in a folder that may only be read: MLflow itself finds out
    except sqlite3.DatabaseError as error:
        raise UserError(f"MLflow store {path} is no SQLite database ({error}): give another --tracking-uri") from None


@contextmanager
def opened_by_one(path: Path) -> Iterator[None]:
    """Lets one process at a time open an SQLite store: two that create its tables at once make each other fail."""
    folder = os.open(path.parent, os.O_RDONLY)  # a lock on the folder leaves no file behind
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@contextmanager
def uri_for_mlflow(uri: str) -> Iterator[str]:
    """Gives an SQLite URI that MLflow opens in the right place, for as long as the context lasts.

    MLflow makes the folder of a percent-encoded path as if the path were not encoded, and SQLAlchemy decodes the path.
    A path that needs the code is therefore opened by its name, from its own folder.
    """
    path = sqlite_path(uri)
    assert path is not None
    query = uri.partition("?")[2]
    encoded = "%" in sqlite_uri(path)
    here = os.open(".", os.O_RDONLY)
    given = os.environ.get(ARTIFACT_ROOT)
    os.environ[ARTIFACT_ROOT] = given or (path.parent / ARTIFACTS).as_uri()
    try:
        if encoded:
            os.chdir(path.parent)
        yield sqlite_uri(Path(path.name) if encoded else path, query)
    finally:
        os.fchdir(here)
        os.close(here)
        if given is None:
            del os.environ[ARTIFACT_ROOT]


def artifact_location(uri: str, experiment: str) -> str | None:
    """Returns where the artifacts of a new experiment go: beside an SQLite file; None for what a server decides.

    MLflow's own default is a path that MLflow later reads as if it were percent-encoded.
    """
    path = sqlite_path(uri)
    return None if path is None else (path.absolute().parent / ARTIFACTS / experiment).as_uri()


def follow_artifacts(path: Path) -> None:
    """Corrects the places of artifacts in a store that was moved or copied together with them.

    MLflow keeps them as absolute paths: it would read from the old folder, and write into it.
    """
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True)) as database, database:
            rows = database.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall()
            for experiment, old in rows:
                new = _followed(old or "", path.absolute().parent / ARTIFACTS)
                if new is None:
                    continue
                database.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, experiment)
                )
                database.execute(
                    "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                    "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                    (new, len(old) + 1, experiment, len(old) + 1, f"{old}/"),
                )
    except sqlite3.Error as error:  # it may only be read: then the artifacts are read where they were
        log.debug("the artifacts of %s cannot be followed: %s", path, error)


def _followed(location: str, artifacts: Path) -> str | None:
    """Returns the new place of an experiment's artifacts if they have moved into `artifacts`, else None."""
    if location.startswith("file://"):
        old = Path(unquote(urlsplit(location).path))
    elif location.startswith("/"):
        old = Path(location)
    else:
        return None
    new = artifacts / old.name
    if old.parent.name != ARTIFACTS or old == new:
        return None
    project = old.parent.parent
    return new.as_uri() if new.is_dir() or not project.exists() else None
