"""`python -m tests.faults.search ...`: study.search, with the faults that the environment variables name.

FAULTS are those of the workers (tests/faults/workers.py), DIES is where the driver kills itself.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna

from study.base.errors import exit_status
from study.engine import trial
from study.records.journal import StudyJournal
from study.records.replicates import Replicate
from study.records.study_layout import StudyFolder
from study.search import session
from study.search.__main__ import main
from study.tracking.writer import StudyWriter
from tests.faults import workers
from tests.faults.workers import die


@contextmanager
def dies_in(owner: Any, name: str, call: int = 1, after: bool = False) -> Iterator[None]:
    """Lets this process die in a call of a function: before its work, or after it."""
    function: Callable[..., Any] = getattr(owner, name)
    calls = iter(range(1, 1 << 30))

    def deadly(*args: Any, **kwargs: Any) -> Any:
        now = next(calls) == call
        if now and not after:
            die()
        result = function(*args, **kwargs)
        if now:
            die()
        return result

    with patch.object(owner, name, deadly):
        yield


@contextmanager
def writes_half_a_line(owner: Any, name: str, path_of: Callable[[Any], Path], call: int) -> Iterator[None]:
    """Lets this process die in the middle of a write to a file of lines."""
    function: Callable[..., Any] = getattr(owner, name)
    calls = iter(range(1, 1 << 30))

    def deadly(self: Any, *args: Any) -> Any:
        if next(calls) < call:
            return function(self, *args)
        path = path_of(self)
        size = path.stat().st_size

        def torn(file: int) -> None:
            os.truncate(path, (size + path.stat().st_size) // 2)
            die()

        with patch.object(os, "fsync", torn):  # comes when all is written
            return function(self, *args)

    with patch.object(owner, name, deadly):
        yield


MOMENTS = {
    "before the config is written": lambda: dies_in(StudyFolder, "write_config"),
    "before the journal is made": lambda: dies_in(session, "open_optuna_study"),
    "between known good configurations": lambda: dies_in(optuna.Study, "enqueue_trial", call=3),
    "before a schedule is noted": lambda: dies_in(optuna.Study, "ask", call=2, after=True),
    "in the middle of a journal's line": lambda: writes_half_a_line(
        StudyJournal, "append_logs", lambda journal: Path(journal._file_path), call=20
    ),
    "while MLflow is told of an evaluation": lambda: dies_in(StudyWriter, "changed", call=3),
    "before Optuna hears of an evaluation": lambda: dies_in(optuna.Trial, "report", call=9),
    "after Optuna has heard of an evaluation": lambda: dies_in(optuna.Trial, "report", call=9, after=True),
    "before MLflow hears of an end": lambda: dies_in(optuna.Study, "tell", call=2, after=True),
    "before the results are written": lambda: dies_in(session, "finish"),
    "before the study's run is closed": lambda: dies_in(StudyWriter, "end_study"),
}

MOMENTS_OF_REPLICATES = {"before a replicate's end is kept": lambda: dies_in(Replicate, "keep", call=3)}

if __name__ == "__main__":
    with ExitStack() as stack:
        if os.environ.get("FAULTS"):
            stack.enter_context(patch.object(trial, "run_trial", workers.run_trial))
        if os.environ.get("DIES"):
            stack.enter_context((MOMENTS | MOMENTS_OF_REPLICATES)[os.environ["DIES"]]())
        if os.environ.get("FAULTS") == "clock":
            stack.enter_context(workers.steps_through_time(Path()))
        sys.exit(exit_status(main))
