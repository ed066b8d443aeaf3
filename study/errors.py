"""The two ways in which a run ends other than well, and how the commands say so."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """A mistake of the user: one line that names what was given, what is allowed and what to do. Exit status 2."""


class DivergenceError(RuntimeError):
    """A loss that is NaN or infinite; says which and at which step."""


def exit_status(command: Callable[[], int]) -> int:
    """Runs a command and returns its exit status: 2 for a user's mistake, 130 after Ctrl-C."""
    try:
        return command()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
