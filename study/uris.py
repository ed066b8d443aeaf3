"""URIs may hold a user and a password: what of them may be shown and kept."""

from urllib.parse import urlsplit, urlunsplit

HIDDEN = "hidden: it holds a password"


def kept(uri: str | None) -> str | None:
    """Returns what a study's config keeps of a URI: HIDDEN if it holds a password."""
    return HIDDEN if uri is not None and redacted(uri) != uri else uri


def redacted(uri: str) -> str:
    """Returns a URI without the user and password that it may carry."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}"))
