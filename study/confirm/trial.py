"""What a confirmation's run does on a worker, and who is told of it."""

import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model.schedules import from_dict
from study.base.names import ARM, CHECKPOINT, SEED, Outcome
from study.confirm.plan import Run
from study.engine.display import Display
from study.engine.recorder import TRACEBACK, flat
from study.engine.trial import Job
from study.records.uploads import Mirror, open_run
from study.tracking.writer import StudyWriter
from study.training.config import TrainingConfig
from study.training.evaluation_rows import METRICS, Labels
from study.training.measures import MEASURED, Measures, run_measured
from study.training.run_folder import RunFolder
from study.training.trainer import Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ConfirmationJob(Job):
    """Trains the runs of a confirmation, by their place in `runs`, and measures more than a trial does.

    Attributes:
        places: where in the study's folder those of the runs are.
    """

    runs: Sequence[Run]
    places: Sequence[Path]

    def opened(self, config: Mapping[str, Any]) -> AbstractContextManager[tuple[RunFolder, Mirror]]:
        """Opens the folder of a run."""
        return open_run(self.storage, self.study, self.places[config["number"]])

    def results(self, config: Mapping[str, Any], folder: RunFolder) -> Generator[dict[str, Any]]:
        """Trains a run, from where it stands, and yields each evaluation with what was measured at it."""
        run, corpus = self.runs[config["number"]], self.corpus.open()
        training = replace(self.training, seed=run.seed)
        trainer = Trainer(training, from_dict(config["schedule"]), corpus, self.device)
        for progress, more in run_measured(folder, trainer, corpus, Labels(study=self.study)):
            yield progress.to_dict() | more


class ConfirmationRecorder:
    """Listens to the searcher: passes on to MLflow and the screen what happens to runs, by their place in `runs`.

    `reasons` says by name why runs failed.
    """

    def __init__(
        self, runs: Sequence[Run], training: TrainingConfig, mirror: Mirror, writer: StudyWriter, display: Display
    ) -> None:
        self._runs, self._training = runs, training
        self._mirror, self._writer, self._display = mirror, writer, display
        self.reasons: dict[str, str] = {}

    def trial_started(self, number: int, schedule: dict[str, Any], known_good: str | None) -> None:
        """Opens the run."""
        self._display.trial_started(number, schedule)
        self._open(self._runs[number])

    def trial_progressed(self, number: int, result: Mapping[str, Any]) -> None:
        """Logs an evaluation."""
        self._display.trial_progressed(number, result)
        self._log(self._runs[number], result, result["time_ms"])

    def trial_warned(self, number: int, warning: str) -> None:
        """Says on the screen what a run's worker wants to be known."""
        log.warning("%s: %s", self._runs[number].name, warning)

    def trial_ended(self, number: int, outcome: Outcome, reason: str | None, traceback: str | None) -> None:
        """Closes the run with its checkpoint, and clears what only a continuation would need."""
        run = self._runs[number]
        self._display.trial_ended(number, outcome, reason)
        if outcome is Outcome.COMPLETED:
            self._log_all(run)
        self._upload_checkpoint(run)
        if reason is not None:
            self.reasons[run.name] = reason
        if traceback is not None:
            run.folder.path.mkdir(parents=True, exist_ok=True)
            path = run.folder.path / TRACEBACK
            path.write_text(traceback, encoding="utf-8")
            self._writer.artifacts(run.name, [path])
        self._writer.end_trial(run.name, outcome, reason)
        self._mirror.remove(run.folder.resume)

    def catch_up(self, complete: Iterable[Run]) -> None:
        """Writes down what a damaged spool has forgotten of runs that are complete."""
        for run in complete:
            if not self._writer.said[run.name].begun:
                self._open(run)
            self._log_all(run)
            if self._writer.said[run.name].open:
                self._upload_checkpoint(run)
                self._writer.end_trial(run.name, Outcome.COMPLETED)

    def break_off(self) -> None:
        """Closes the runs that have no end yet, and that the same command goes on with."""
        runs = {run.name: run for run in self._runs}
        for name in self._writer.open_trials():
            if name in runs:
                self._upload_checkpoint(runs[name])
            self._writer.end_trial(name, Outcome.STOPPED_EARLY, "the confirmation was stopped")

    def _open(self, run: Run) -> None:
        training = replace(self._training, seed=run.seed)
        self._writer.start_trial(
            run.name,
            name=f"{run.arm}-seed-{run.seed}",
            params=flat({"schedule": run.schedule.to_dict(), "training": asdict(training)}),
            tags={ARM: run.arm, SEED: str(run.seed)},
        )

    def _log(self, run: Run, evaluation: Mapping[str, Any], time_ms: int | None = None) -> None:
        metrics = {name: evaluation[name] for name in (*METRICS, *MEASURED) if name in evaluation}
        self._writer.log(run.name, evaluation["step"], metrics, time_ms)

    def _log_all(self, run: Run) -> None:
        """Logs what the run's own files have, and was not said."""
        measures = Measures.read(run.folder.path)
        evaluations, full_val_loss = run.folder.rows(), dict(measures.full_val_loss)
        for row in evaluations:
            more = {"full_val_loss": full_val_loss[row["step"]]} if row["step"] in full_val_loss else {}
            self._log(run, row | more | (measures.final() if row is evaluations[-1] else {}))

    def _upload_checkpoint(self, run: Run) -> None:
        steps = self._writer.said[run.name].steps
        if steps or run.folder.weights.exists():
            self._writer.artifacts(
                run.name, [run.folder.weights, run.folder.config], CHECKPOINT, max(steps, default=None)
            )
