"""How long a session waits for a server at its end."""

import time
from collections.abc import Callable

Deadline = Callable[[], float]
"""Until when to wait, by `time.monotonic`; asked again and again."""
SEND_SECONDS = 60.0
"""How long MLflow may be silent at the end, before what it lacks is left to --resume."""
SEND_SECONDS_INTERRUPTED = 2.0
SEND_SECONDS_AFTER_ERROR = 5.0


def in_seconds(seconds: float) -> Deadline:
    """Returns the deadline so many seconds from now."""
    deadline = time.monotonic() + seconds
    return lambda: deadline
