"""URIs: what of one may be shown and kept, since it may hold a password; an SQLite URI becomes a path and back.

The path of an SQLite URI is percent-encoded where that changes its meaning, and nowhere else: MLflow and SQLAlchemy 2.0
read most of it as it stands.
"""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

HIDDEN = "hidden: it holds a password"

# What stands between "//" and the last "@" before the path or, should a password hold a "/", before the next blank.
_USER = re.compile(r"(?<=//)[^\s@]*@(?:[^\s/@]*@)*")
_SQLITE = "sqlite:///"
_SECRET = re.compile(r"(?i)((?:password|passwd|secret|token|access_key)[^=&\s]*=)[^&\s]+")


def redacted(text: str) -> str:
    """Returns a URI, or a text with URIs in it, without the users and passwords that they carry."""
    return _SECRET.sub(r"\1***", _USER.sub("***@", text))


def kept(uri: str | None, folder: Path | None) -> str | None:
    """Returns what a config in a folder keeps of a URI, for `recalled`: HIDDEN if the URI holds a password.

    An SQLite file in the working folder is kept relative to the config's folder, if that is below the working folder
    too: a project that is copied or moved then uses the file that came along. `folder` is None for a config that other
    machines read.
    """
    if uri is None or redacted(uri) != uri:
        return uri and HIDDEN
    path, here = sqlite_path(uri), Path.cwd()
    if path is None or folder is None or path.parent != here or not folder.absolute().is_relative_to(here):
        return uri
    return sqlite_uri(Path(os.path.relpath(path, folder.absolute())), _query(uri))


def recalled(uri: str | None, folder: Path) -> str | None:
    """Returns the URI that a config in a folder keeps; None if it keeps none, or has hidden it."""
    if uri is None or uri == HIDDEN:
        return None
    return absolute(uri, folder)


def absolute(uri: str, folder: Path = Path()) -> str:
    """Returns a URI that means the same from every folder: an SQLite file relative to `folder` becomes absolute."""
    path = sqlite_path(uri)
    return uri if path is None else sqlite_uri(Path(os.path.normpath(folder.absolute() / path)), _query(uri))


def web_address(uri: str) -> str | None:
    """Returns where a browser finds the pages of an http(s) URI, without user, password or query; else None."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def sqlite_path(uri: str) -> Path | None:
    """Returns the database file of an SQLite URI, or None for any other."""
    return Path(unquote(uri.removeprefix(_SQLITE).partition("?")[0])) if uri.startswith(_SQLITE) else None


def sqlite_uri(path: Path, query: str = "") -> str:
    """Returns the SQLite URI of a database file."""
    place = str(path).replace("%", "%25").replace("?", "%3F")
    return _SQLITE + place + (f"?{query}" if query else "")


def _query(uri: str) -> str:
    return uri.partition("?")[2]
