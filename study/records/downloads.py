"""Brings files of a study from an object store to this machine."""

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from study.records.storage import Storage, first_line

log = logging.getLogger(__name__)
RETRY_SECONDS = 5.0


def download_folder(storage: Storage, folder: Path) -> None:
    """Copies everything that the store has below a folder; waits for a store that is away."""

    def attempt() -> None:
        for path in storage.list(folder):
            storage.fetch(path)

    _until_it_answers(storage, attempt)


def download_files(storage: Storage, paths: Iterable[Path]) -> None:
    """Makes local files what the store has of them; waits for a store that is away.

    A file that the store lacks is removed here: it is left of a session whose upload failed, or of another study.
    """

    def attempt() -> None:
        for path in wanted:
            try:
                storage.fetch(path)
            except FileNotFoundError:
                path.unlink(missing_ok=True)

    wanted = list(paths)
    _until_it_answers(storage, attempt)


def _until_it_answers(storage: Storage, attempt: Callable[[], None]) -> None:
    said = False
    while storage.is_remote:
        try:
            return attempt()
        except OSError as error:
            if error.errno is not None and not isinstance(error, FileNotFoundError):
                raise  # of this machine's disk: a store's own errors have no number
            if not said:
                log.warning("storage does not answer; the download is tried again: %s", first_line(error))
            said = True
            time.sleep(RETRY_SECONDS)
