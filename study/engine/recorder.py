"""Passes on what happens to runs: to MLflow, to the screen, and to the runs' folders."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from study.base.names import CHECKPOINT, TRIALS_PER_GPU, Outcome
from study.engine.display import Display
from study.engine.run_spec import RunSpec
from study.records.uploads import Mirror
from study.tracking.writer import StudyWriter
from study.training.run_folder import RunFolder

log = logging.getLogger(__name__)
TRACEBACK = "traceback.txt"


class Recorder:
    """Listens to the searcher, on behalf of everyone who wants to know.

    Args:
        root: the study's folder.
        make_spec: returns a run from its number, its schedule, and what it is called if it is a known good one.
        pause_reason: why runs have no end yet, when a session ends.

    Attributes:
        reasons: why runs have failed, by title.
    """

    def __init__(
        self,
        root: Path,
        make_spec: Callable[[int, Mapping[str, Any], str | None], RunSpec],
        mirror: Mirror,
        writer: StudyWriter,
        display: Display,
        pause_reason: str,
        trials_per_gpu: int = 1,
    ) -> None:
        self._root, self._make_spec, self._pause_reason = root, make_spec, pause_reason
        self._mirror, self._writer, self._display = mirror, writer, display
        self._slot_tags = {} if trials_per_gpu == 1 else {TRIALS_PER_GPU: str(trials_per_gpu)}
        self._running: dict[int, RunSpec] = {}
        self._placed: set[int] = set()
        self.reasons: dict[str, str] = {}

    def trial_started(self, number: int, schedule: dict[str, Any], known_good: str | None) -> None:
        """Opens the run."""
        spec = self._running[number] = self._make_spec(number, schedule, known_good)
        self._display.trial_started(number, schedule)
        self._open(spec, _now_ms())

    def trial_progressed(self, number: int, result: Mapping[str, Any]) -> None:
        """Says that there is an evaluation, and once where the run is trained."""
        key = self._running[number].key
        self._display.trial_progressed(number, result)
        if number not in self._placed:
            self._placed.add(number)
            self._writer.tag(key, {"node": result["node"], "gpu_ids": result["gpu_ids"], **self._slot_tags})
        self._writer.changed(key, result["step"])

    def trial_warned(self, number: int, warning: str) -> None:
        """Says on the screen what a run's worker wants to be known."""
        log.warning("%s: %s", self._running[number].title, warning)

    def trial_ended(self, number: int, outcome: Outcome, reason: str | None, traceback: str | None) -> None:
        """Closes the run with its checkpoint, and clears what only a continuation would need."""
        spec = self._running.pop(number)
        folder = RunFolder(self._root / spec.place)
        if traceback is not None:
            folder.path.mkdir(parents=True, exist_ok=True)
            (folder.path / TRACEBACK).write_text(traceback, encoding="utf-8")
        if reason is not None:
            self.reasons[spec.title] = reason
        self._display.trial_ended(number, outcome, reason)
        self._close(spec, outcome, reason, _now_ms())
        self._mirror.remove(folder.resume)

    def describe_ended(
        self,
        spec: RunSpec,
        outcome: Outcome,
        reason: str | None = None,
        started_ms: int | None = None,
        ended_ms: int | None = None,
        step: int = -1,
    ) -> None:
        """Describes a run that ended in an earlier session; `step` is that of its last evaluation, as far as known."""
        self._open(spec, started_ms)
        self._writer.changed(spec.key, step)
        self._close(spec, outcome, reason, ended_ms)

    def pause(self, spec: RunSpec) -> None:
        """Closes a run that has no end yet, and that a later session goes on with."""
        if spec not in self._running.values():
            self._open(spec)
        self._close(spec, Outcome.STOPPED_EARLY, self._pause_reason, is_final=False)

    def pause_all(self) -> None:
        """Closes the runs of this session that have no end yet."""
        for spec in self._running.values():
            self.pause(spec)

    def _open(self, spec: RunSpec, started_ms: int | None = None) -> None:
        self._writer.start_run(spec.key, spec.name, spec.params(), spec.tags, spec.place, started_ms)

    def _close(
        self,
        spec: RunSpec,
        outcome: Outcome,
        reason: str | None,
        ended_ms: int | None = None,
        is_final: bool = True,
    ) -> None:
        folder = RunFolder(self._root / spec.place)
        files: dict[Path, str | None] = {folder.weights: CHECKPOINT, folder.config: CHECKPOINT}
        if (traceback := folder.path / TRACEBACK).exists():
            files[traceback] = None
        self._writer.end_run(spec.key, outcome, reason, files, is_final, ended_ms)


def _now_ms() -> int:
    return int(time.time() * 1000)
