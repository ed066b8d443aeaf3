"""Passes on what happens to runs to MLflow and to the runs' folders."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from study.base.names import CHECKPOINT, OUTCOME, REASON, STATUS, TRIALS_PER_GPU, Key, Outcome
from study.engine.run_source import Ending
from study.engine.run_spec import RunSpec
from study.records.uploads import UploadQueue
from study.tracking.run_record import Artifact, RunRecord
from study.tracking.writer import StudyWriter
from study.training.run_folder import CONFIG, WEIGHTS, RunFolder

TRACEBACK = "traceback.txt"


class Recorder:
    """Hears of the runs of a session, and describes each to MLflow.

    Args:
        root: the study's folder.
        pause_reason: why runs have no end yet, when a session ends.

    Attributes:
        reasons: why runs have failed.
    """

    def __init__(
        self, root: Path, uploads: UploadQueue, writer: StudyWriter, pause_reason: str, trials_per_gpu: int = 1
    ) -> None:
        self._root, self._uploads, self._writer, self._pause_reason = root, uploads, writer, pause_reason
        self._slot_tags = {} if trials_per_gpu == 1 else {TRIALS_PER_GPU: str(trials_per_gpu)}
        self._running: dict[Key, RunSpec] = {}
        self._ended: set[Key] = set()
        self._placed: set[Key] = set()
        self.reasons: dict[Key, str] = {}

    def run_started(self, spec: RunSpec) -> None:
        """Opens the run."""
        self._running[spec.key] = spec
        self._open(spec, _now_ms())

    def run_progressed(self, spec: RunSpec, result: Mapping[str, Any]) -> None:
        """Says that there is an evaluation, and once where the run is trained."""
        if spec.key not in self._placed:
            self._placed.add(spec.key)
            tags = {"node": result["node"], "gpu_ids": result["gpu_ids"], **self._slot_tags}
            record = self._writer.records[spec.key]
            self._writer.describe(replace(record, tags={**record.tags, **tags}))
        self._writer.changed(spec.key, result["step"])

    def run_ended(self, spec: RunSpec, ending: Ending) -> None:
        """Closes the run with its checkpoint, and clears what only a continuation would need."""
        del self._running[spec.key]
        self._ended.add(spec.key)
        folder = RunFolder(self._root / spec.place)
        if ending.traceback is not None:
            folder.path.mkdir(parents=True, exist_ok=True)
            (folder.path / TRACEBACK).write_text(ending.traceback, encoding="utf-8")
        if ending.reason is not None:
            self.reasons[spec.key] = ending.reason
        self._close(spec, ending, _now_ms())
        self._uploads.remove(folder.resume)

    def describe_ended(
        self,
        spec: RunSpec,
        ending: Ending,
        started_ms: int | None = None,
        ended_ms: int | None = None,
        step: int = -1,
    ) -> None:
        """Describes a run that ended in an earlier session; `step` is that of its last evaluation, as far as known."""
        self._open(spec, started_ms)
        self._writer.changed(spec.key, step)
        self._close(spec, ending, ended_ms)

    def pause(self, spec: RunSpec) -> None:
        """Closes a run that a later session goes on with, unless it has ended in this one."""
        if spec.key in self._ended:
            return
        if spec.key not in self._running:
            self._open(spec)
        self._close(spec, Ending(outcome=Outcome.STOPPED_EARLY, reason=self._pause_reason), is_final=False)

    def pause_all(self) -> None:
        """Closes the runs of this session that have no end yet."""
        for spec in self._running.values():
            self.pause(spec)

    def _open(self, spec: RunSpec, started_ms: int | None = None) -> None:
        self._writer.describe(
            RunRecord(
                key=spec.key,
                name=spec.name,
                params=spec.params(),
                tags=spec.tags,
                place=str(spec.place),
                started_ms=started_ms,
            )
        )

    def _close(self, spec: RunSpec, ending: Ending, ended_ms: int | None = None, is_final: bool = True) -> None:
        tags = {OUTCOME: ending.outcome.value} | ({REASON: ending.reason[:5000]} if ending.reason else {})
        files: list[Artifact] = [(str(spec.place / name), CHECKPOINT) for name in (WEIGHTS, CONFIG)]
        if (self._root / spec.place / TRACEBACK).exists():
            files.append((str(spec.place / TRACEBACK), None))
        self._writer.describe(
            replace(
                self._writer.records[spec.key],
                status=STATUS[ending.outcome],
                end_tags=tags,
                closing_files=tuple(files),
                is_final=is_final,
                ended_ms=ended_ms,
            )
        )


def _now_ms() -> int:
    return int(time.time() * 1000)
