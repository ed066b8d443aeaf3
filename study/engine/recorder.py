"""Passes on what happens to trials: to MLflow, to the screen, and to the trials' folders."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from optuna.trial import FrozenTrial

from study.base.names import CHECKPOINT, TRIALS_PER_GPU, Outcome
from study.engine.display import Display
from study.records.optuna_study import KNOWN, REASON, SCHEDULE, STATES
from study.records.study_layout import StudyConfig, StudyFolder
from study.records.uploads import Mirror
from study.tracking.writer import StudyWriter
from study.training.evaluation_rows import METRICS

log = logging.getLogger(__name__)
TRACEBACK = "traceback.txt"
OUTCOMES = {state: outcome for outcome, state in STATES.items()}


class Recorder:
    """Listens to the searcher, on behalf of everyone who wants to know."""

    def __init__(
        self,
        config: StudyConfig,
        folder: StudyFolder,
        mirror: Mirror,
        writer: StudyWriter,
        display: Display,
        trials_per_gpu: int = 1,
    ) -> None:
        self._config, self._folder, self._mirror, self._writer, self._display = config, folder, mirror, writer, display
        self._slot_tags = {} if trials_per_gpu == 1 else {TRIALS_PER_GPU: str(trials_per_gpu)}
        self._placed: set[int] = set()

    def trial_started(self, number: int, schedule: dict[str, Any], known_good: str | None) -> None:
        """Opens the trial's run."""
        self._display.trial_started(number, schedule)
        self._open(number, schedule, known_good)

    def trial_progressed(self, number: int, result: Mapping[str, Any]) -> None:
        """Logs an evaluation, and once where the trial runs."""
        self._display.trial_progressed(number, result)
        self._log(number, result)
        if number not in self._placed:
            self._placed.add(number)
            self._writer.tag(number, {"node": result["node"], "gpu_ids": result["gpu_ids"], **self._slot_tags})

    def trial_warned(self, number: int, warning: str) -> None:
        """Says on the screen what a trial's worker wants to be known."""
        log.warning("trial %d: %s", number, warning)

    def trial_ended(self, number: int, outcome: Outcome, reason: str | None, traceback: str | None) -> None:
        """Closes the trial's run with its checkpoint, and clears what only a continuation would need."""
        if traceback is not None:
            path = self._folder.trial(number).path / TRACEBACK
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(traceback, encoding="utf-8")
        self._display.trial_ended(number, outcome, reason)
        self._close(number, outcome, reason)

    def catch_up(self, trials: Iterable[FrozenTrial]) -> None:
        """Writes down what an earlier session knew of its trials and could not say, or a damaged spool forgot."""
        for trial in trials:
            number, schedule = trial.number, trial.user_attrs.get(SCHEDULE)
            if schedule is None:  # it has not begun
                continue
            outcome = OUTCOMES.get(trial.state)
            if not self._writer.said[number].begun:
                self._open(number, schedule, trial.user_attrs.get(KNOWN))
            seen = max(trial.intermediate_values, default=-1)
            for row in self._folder.trial(number).rows():
                if row["step"] <= seen or outcome is not None:  # else the trial goes on, and says it itself
                    self._log(number, row)
            if outcome is not None and self._writer.said[number].open:
                self._close(number, outcome, trial.user_attrs.get(REASON))

    def break_off(self) -> None:
        """Closes the runs of the trials that have no end yet, and that a resumed study goes on with."""
        for number in self._writer.open_trials():
            self._upload_checkpoint(number)
            self._writer.end_trial(number, Outcome.STOPPED_EARLY, "the study was stopped")

    def _open(self, number: int, schedule: dict[str, Any], known_good: str | None) -> None:
        self._writer.start_trial(
            number,
            name=f"trial-{number}-{schedule['kind']}",
            params=flat({"schedule": schedule, "training": asdict(self._config.training)}),
            tags={"known_good": known_good} if known_good else {},
        )

    def _log(self, number: int, evaluation: Mapping[str, Any]) -> None:
        metrics = {name: evaluation[name] for name in METRICS}
        self._writer.log(number, evaluation["step"], metrics, evaluation.get("time_ms"))

    def _close(self, number: int, outcome: Outcome, reason: str | None) -> None:
        folder = self._folder.trial(number)
        if outcome is Outcome.FAILED:
            for row in folder.rows():  # the last one may be of a worker that died before it could tell
                self._log(number, row)
        self._upload_checkpoint(number)
        if (traceback := folder.path / TRACEBACK).exists():
            self._writer.artifacts(number, [traceback])
        self._writer.end_trial(number, outcome, reason)
        self._mirror.remove(folder.resume)

    def _upload_checkpoint(self, number: int) -> None:
        folder = self._folder.trial(number)
        steps = self._writer.said[number].steps
        if steps or folder.weights.exists():
            self._writer.artifacts(number, [folder.weights, folder.config], CHECKPOINT, max(steps, default=None))


def flat(d: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dicts to dotted keys: {"schedule": {"kind": x}} gives {"schedule.kind": x}."""
    items: dict[str, Any] = {}
    for key, value in d.items():
        items |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return items
