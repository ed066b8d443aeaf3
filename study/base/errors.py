"""The ways in which a run ends other than well, and how the commands say so."""

import errno
import signal
import sys
import traceback
from collections.abc import Callable

from study.base.output import OutputLostError, output_that_may_be_lost, printable
from study.base.signals import interrupted_by_signals
from study.base.uris import redacted

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}


class UserError(ValueError):
    """A mistake of the user: one line that names what was given, what is allowed and what to do. Exit status 2."""


class WorldError(RuntimeError):
    """What a study cannot do without is missing, as space on a disk: one line, and --resume goes on. Exit status 1."""


class DivergenceError(RuntimeError):
    """A loss that is NaN or infinite; says which and at which step."""


def exit_status(command: Callable[[], int], *, ends_with_reader: bool = False) -> int:
    """Runs a command and returns its exit status: 2 for a user's mistake, 1 for an error, 130 after Ctrl-C.

    SIGTERM and a closed terminal count as Ctrl-C. Output that no one reads is dropped.

    Args:
        ends_with_reader: whether the command ends when the reader of its output has ended, with status 141.
    """
    try:
        with interrupted_by_signals(), output_that_may_be_lost(ends_with_reader=ends_with_reader):
            return _exit_status(command)
    except OutputLostError:
        return 128 + signal.SIGPIPE  # as a shell says it of other tools


def _exit_status(command: Callable[[], int]) -> int:
    try:
        return command()
    except (UserError, WorldError) as error:
        print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if (disk := disk_error(error)) is not None:
            print(f"error: a file cannot be written: {disk}: make space, then give the same command", file=sys.stderr)
            return 1
        # A mistake of ours: all that helps to find it, but no password.
        print(redacted(traceback.format_exc()), end="", file=sys.stderr)
        return 1


def first_line(error: BaseException | str) -> str:
    """Returns the first line of an error's message, without passwords and of a length that fits into a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return redacted(lines[0])[:300]


def disk_error(error: BaseException | None) -> str | None:
    """Returns what a disk said that cannot be written (full, read-only, gone), if that is why an error was raised."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return error.strerror or type(error).__name__
        if "No space left on device" in str(error):  # as safetensors says it
            return "No space left on device"
        error = error.__cause__ or error.__context__
    return None
