"""Optuna's journal in a study's folder, made whole again after its writer died."""

import json
import logging
from pathlib import Path

from study.errors import UserError

log = logging.getLogger(__name__)


def mend(journal: Path) -> None:
    """Drops what a writer that died left of its last line, and the lock that it held on the journal.

    Optuna itself would append to half a line, and wait half a minute for the lock. Only for the one who holds the
    study's lock.

    Raises:
        UserError: if a line before the last one is damaged.
    """
    for left in journal.parent.glob(f"{journal.name}.lock*"):
        left.unlink(missing_ok=True)
    if not journal.exists():
        return
    with journal.open("rb") as file:
        lines = file.readlines()
    damaged = next((i for i, line in enumerate(lines) if not _is_whole(line)), None)
    if damaged is None:
        return
    if damaged < len(lines) - 1:
        raise UserError(f"{journal} is damaged at line {damaged + 1} of {len(lines)}: put a copy of it back")
    log.warning("the last line of %s is damaged: it is left out", journal)
    with journal.open("r+b") as file:
        file.truncate(sum(map(len, lines[:-1])))


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
