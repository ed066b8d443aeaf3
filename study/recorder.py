"""Passes on what happens to trials: to MLflow, to the screen, and to the trials' folders."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from study.display import Display
from study.layout import StudyConfig, StudyFolder
from study.rows import METRICS
from study.tracking.names import CHECKPOINT, TRIALS_PER_GPU, Outcome
from study.tracking.writer import StudyWriter


class Recorder:
    """Listens to the searcher, on behalf of everyone who wants to know. `running` are the trials without an end."""

    def __init__(
        self,
        config: StudyConfig,
        folder: StudyFolder,
        writer: StudyWriter,
        display: Display,
        trials_per_gpu: int = 1,
    ) -> None:
        self._config, self._folder, self._writer, self._display = config, folder, writer, display
        self._slot_tags = {} if trials_per_gpu == 1 else {TRIALS_PER_GPU: str(trials_per_gpu)}
        self._placed: set[int] = set()
        self.running: set[int] = set()

    def trial_started(self, number: int, schedule: dict[str, Any], known_good: str | None) -> None:
        """Opens the trial's run."""
        self.running.add(number)
        self._display.trial_started(number, schedule)
        self._writer.start_trial(
            number,
            name=f"trial-{number}-{schedule['kind']}",
            params=flat({"schedule": schedule, "training": asdict(self._config.training)}),
            tags={"known_good": known_good} if known_good else {},
        )

    def trial_progressed(self, number: int, result: Mapping[str, Any]) -> None:
        """Logs an evaluation, and once where the trial runs."""
        self._display.trial_progressed(number, result)
        self._writer.log(number, result["step"], {name: result[name] for name in METRICS}, result["time_ms"])
        if number not in self._placed:
            self._placed.add(number)
            self._writer.tag(number, {"node": result["node"], "gpu_ids": result["gpu_ids"], **self._slot_tags})

    def trial_ended(self, number: int, outcome: Outcome, reason: str | None, traceback: str | None) -> None:
        """Closes the trial's run with its checkpoint, and clears what only a continuation would need."""
        self.running.discard(number)
        self._display.trial_ended(number, outcome, reason)
        folder = self._folder.trial(number)
        self._upload_checkpoint(number)
        if traceback is not None:
            folder.path.mkdir(parents=True, exist_ok=True)
            path = folder.path / "traceback.txt"
            path.write_text(traceback, encoding="utf-8")
            self._writer.artifacts(number, [path])
        self._writer.end_trial(number, outcome, reason)
        folder.finish()

    def trial_broken_off(self, number: int) -> None:
        """Closes the run of a trial that has no end yet, and that a resumed study goes on with."""
        self.running.discard(number)
        self._upload_checkpoint(number)
        self._writer.end_trial(number, Outcome.STOPPED_EARLY, "the study was stopped")

    def _upload_checkpoint(self, number: int) -> None:
        folder = self._folder.trial(number)
        if folder.weights.exists():
            self._writer.artifacts(number, [folder.weights, folder.config], CHECKPOINT)


def flat(d: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dicts to dotted keys: {"schedule": {"kind": x}} gives {"schedule.kind": x}."""
    items: dict[str, Any] = {}
    for key, value in d.items():
        items |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return items
