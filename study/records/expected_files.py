"""Waits for what workers elsewhere send to an object store."""

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

from study.records.storage import THREADS, Storage
from study.training.run_folder import RunFolder

log = logging.getLogger(__name__)


def has_come(storage: Storage, run: RunFolder, step: int) -> bool:
    """Whether the storage has a trial's evaluation of a step, and with it the weights that it made the best.

    Its evaluations are in `run` afterwards. Raises OSError if the storage does not answer.
    """
    if not storage.is_remote:
        return True
    with suppress(FileNotFoundError):
        storage.fetch(run.metrics)
        return max((row["step"] for row in run.rows()), default=-1) >= step
    return False


def wait_for_all(
    storage: Storage, steps: Mapping[RunFolder, int], seconds: float, patience: float | None = None
) -> bool:
    """Waits until the storage has these evaluations of trials, or answers at all; says whose evaluations it lacks.

    What a worker had not sent when it died does not come.

    Args:
        seconds: how long what is not there may take to come.
        patience: the most seconds that all this may take; None is no limit. A store that is away is slow to say so.

    Returns:
        Whether the store has answered for each.
    """
    if not storage.is_remote:
        return True
    began = time.monotonic()
    found: dict[RunFolder, bool | OSError] = {}  # what came of the last look
    pending = dict(steps)
    while True:
        _look(storage, pending, found, None if patience is None else began + patience)
        errors = [answer for run in steps if isinstance(answer := found.get(run, OSError()), OSError)]
        for error in errors:
            if error.errno is not None:
                raise error  # of this machine's disk: a store's own errors have no number
        pending = {run: step for run, step in pending.items() if found.get(run) is not True}
        if not pending or time.monotonic() >= began + seconds:
            break
        time.sleep(0.5)  # between two looks at what another machine writes
    if pending:
        names = ", ".join(run.path.name for run in pending)
        log.warning("of trials %s the storage lacks the last evaluations", names)
    return not errors


def _look(
    storage: Storage, steps: Mapping[RunFolder, int], found: dict[RunFolder, bool | OSError], deadline: float | None
) -> None:
    """Looks once for each evaluation, in threads that no one waits for after a deadline, by `time.monotonic`."""
    left = iter(steps.items())

    def look() -> None:
        for run, step in left:
            try:
                found[run] = has_come(storage, run, step)
            except OSError as error:
                found[run] = error

    threads = [threading.Thread(target=look, daemon=True) for _ in range(min(THREADS, len(steps)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
