"""Standard output and error that may be lost while a command runs: a pipe's reader ends, a terminal is closed."""

import errno
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO, cast


class OutputLostError(BaseException):
    """No one reads the output of a command that is to end then; like KeyboardInterrupt, it is no error of the work."""


class _Stream:
    """A text stream that falls silent when it cannot be written: to print is not the work of a study."""

    def __init__(self, stream: TextIO, *, ends_with_reader: bool) -> None:
        self._stream, self._ends_with_reader = stream, ends_with_reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text; it is dropped if that is not possible."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Writes what is buffered; it is dropped if that is not possible."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        with suppress(OSError, ValueError):  # a stream without a file, as in a test
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())  # whatever is buffered, and every later line, goes nowhere
            os.close(null)
        if self._ends_with_reader and error.errno == errno.EPIPE:
            raise OutputLostError from None


@contextmanager
def output_that_may_be_lost(*, ends_with_reader: bool) -> Iterator[None]:
    """Lets the process go on silently if its output cannot be written, for as long as the context lasts.

    Args:
        ends_with_reader: whether a pipe without a reader ends the command, with OutputLostError.
    """
    before = sys.stdout, sys.stderr
    for name in ("stdout", "stderr"):  # in this order, so that a closed one gets its number back
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal of another encoding shows the rest of the line
        setattr(sys, name, cast(TextIO, _Stream(stream, ends_with_reader=ends_with_reader)))
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        sys.stdout, sys.stderr = before


def printable(text: str) -> str:
    """Returns a text of unknown origin for a terminal: control characters, which could command it, are escaped."""
    return "".join(_escaped(c) if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def end_at_once(status: int) -> NoReturn:
    """Ends this process without what Python does at its exit.

    pyarrow waits there for its requests to an object store, which takes seconds for a store that is away.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # no one reads it
            stream.flush()
    os._exit(status)
