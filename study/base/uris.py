"""URIs may hold a user and a password: what of them may be shown and kept."""

import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "hidden: it holds a password"

# What stands between "//" and the last "@" before the path or, should a password hold a "/", before the next blank.
_USER = re.compile(r"(?<=//)[^\s@]*@(?:[^\s/@]*@)*")
_SECRET = re.compile(r"(?i)((?:password|passwd|secret|token|access_key)[^=&\s]*=)[^&\s]+")


def redacted(text: str) -> str:
    """Returns a URI, or a text with URIs in it, without the users and passwords that they carry."""
    return _SECRET.sub(r"\1***", _USER.sub("***@", text))


def kept(uri: str | None) -> str | None:
    """Returns what a study's config keeps of a URI: HIDDEN if it holds a password."""
    return HIDDEN if uri is not None and redacted(uri) != uri else uri


def absolute(uri: str) -> str:
    """Returns a URI that means the same from every folder: a relative SQLite file becomes an absolute one."""
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path.absolute()}"


def web_address(uri: str) -> str | None:
    """Returns where a browser finds the pages of an http(s) URI, without user, password or query; else None."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def sqlite_path(uri: str) -> Path | None:
    """Returns the database file of an SQLite URI, or None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
