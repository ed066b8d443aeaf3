"""Reads a study from MLflow alone, as another machine sees it."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, ViewType
from mlflow.exceptions import MlflowException

from study.base.errors import UserError, first_line
from study.base.names import CHECKPOINT, LOSS, METRIC, OUTCOME, ROLE, SECONDS, TRIAL, Outcome, Role
from study.base.ranking import best_first, mean_of_seeds, pareto_front
from study.base.uris import redacted
from study.tracking.client import check, connect, tracking_uri
from study.tracking.view import run_addresses
from study.training.schedule_file import ScheduleFile, read_schedule_file


@dataclass(frozen=True, kw_only=True)
class TrackedTrial:
    """A completed trial: its number and run, what it trained with, and its (step, val_loss).

    `mean` is its mean best_val_loss with that of its replicates, None without these.
    """

    number: int
    run_id: str
    file: ScheduleFile
    val_losses: list[tuple[int, float]]
    mean: float | None


class TrackedStudy:
    """A study in an MLflow store.

    Raises:
        UserError: if the store does not answer or does not exist, or has no such study.
    """

    def __init__(self, uri: str | None, name: str) -> None:
        self.uri = uri = tracking_uri(uri)
        check(uri, create=False)
        self._client = connect(uri)
        self.name = name
        experiment = self._client.get_experiment_by_name(name)
        parents = search_runs(self._client, experiment.experiment_id, Role.STUDY) if experiment else []
        if experiment is None or not parents:
            raise UserError(f"there is no study {name} at {redacted(uri)}: see --study and --tracking-uri")
        self._experiment_id = experiment.experiment_id
        self._run_id = parents[0].info.run_id
        self.tags: dict[str, str] = parents[0].data.tags
        self.objectives: str = parents[0].data.params.get("objectives", LOSS)

    def trials(self) -> list[Run]:
        """Returns the runs of all trials."""
        return search_runs(self._client, self._experiment_id, Role.TRIAL)

    def replicates(self) -> dict[int, list[float]]:
        """Returns the best_val_loss of the completed replicates, by the number of their trial."""
        found: dict[int, list[float]] = {}
        for run in search_runs(self._client, self._experiment_id, Role.REPLICATE):
            if run.data.tags.get(OUTCOME) == Outcome.COMPLETED:
                found.setdefault(int(run.data.tags[TRIAL]), []).append(run.data.metrics[METRIC])
        return found

    def history(self, run: Run, metric: str) -> list[Metric]:
        """Returns all points of a metric."""
        return list(self._client.get_metric_history(run.info.run_id, metric))

    def run_pages(self) -> dict[int, str]:
        """Returns the address of each trial's page, by its number; none if the store is no server."""
        return run_addresses(
            self.uri, self._experiment_id, {int(run.data.tags[TRIAL]): run.info.run_id for run in self.trials()}
        )

    def download(self, names: Sequence[str], folder: Path, role: str = Role.STUDY) -> set[str]:
        """Downloads artifacts of the study's run, or of the newest with another role; returns the names that it has."""
        run_id = self._run_id
        if role != Role.STUDY:
            others = search_runs(self._client, self._experiment_id, role)
            if not others:
                return set()
            run_id = max(others, key=lambda run: run.info.start_time).info.run_id
        found = {file.path for file in self._client.list_artifacts(run_id)} & set(names)
        for name in sorted(found):
            self._client.download_artifacts(run_id, name, str(folder))
        return found

    def attach(self, files: Sequence[Path], folder: str | None = None) -> None:
        """Uploads files as artifacts of the study's run. Raises OSError if the store does not take them."""
        try:
            for file in files:
                self._client.log_artifact(self._run_id, str(file), folder)
        except MlflowException as error:
            raise OSError(first_line(error)) from None

    def front(self) -> list[Run]:
        """Returns the runs of the Pareto front of loss and training time, fastest first. Raises as `winner` does."""
        return pareto_front(
            self._completed(), loss=_loss, seconds=lambda run: float(run.data.metrics[SECONDS]), number=_number
        )

    def winner(self) -> TrackedTrial:
        """Returns the winner, the first of the completed trials. Raises UserError if there is none."""
        return self.trial(best_first(self._completed(), loss=_loss, number=_number, replicates=self.replicates())[0])

    def trial(self, run: Run) -> TrackedTrial:
        """Returns a completed trial from its run."""
        return TrackedTrial(
            number=_number(run),
            run_id=run.info.run_id,
            file=self._file(run),
            val_losses=[(metric.step, metric.value) for metric in self.history(run, "val_loss")],
            mean=mean_of_seeds(_loss(run), self.replicates().get(_number(run), ())),
        )

    def download_checkpoint(self, trial: TrackedTrial, folder: Path) -> Path:
        """Downloads a trial's best weights and their config; returns the folder of both. Raises UserError."""
        try:
            return Path(self._client.download_artifacts(trial.run_id, CHECKPOINT, str(folder)))
        except (MlflowException, OSError) as error:  # the stores of artifacts differ in how they say it
            raise UserError(
                f"trial {trial.number} of study {self.name} has no weights in MLflow ({first_line(error)}): they are "
                "in the study's own folder"
            ) from None

    def _completed(self) -> list[Run]:
        completed = [run for run in self.trials() if run.data.tags.get(OUTCOME) == Outcome.COMPLETED]
        if not completed:
            raise UserError(f"study {self.name} has no completed trial yet: wait, or look at it in the MLflow UI")
        return completed

    def _file(self, run: Run) -> ScheduleFile:
        """Returns what a trial trained with. Raises UserError if MLflow lacks it."""
        artifact = f"{CHECKPOINT}/config.yaml"
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = self._client.download_artifacts(run.info.run_id, artifact, folder)
            except (MlflowException, OSError) as error:  # the stores of artifacts differ in how they say it
                raise UserError(
                    f"trial {run.data.tags[TRIAL]} of study {self.name} has no artifact {artifact} in MLflow "
                    f"({first_line(error)}): take best_schedule.yaml from the study's own folder"
                ) from None
            return read_schedule_file(Path(path))


def _loss(run: Run) -> float:
    return float(run.data.metrics[METRIC])


def _number(run: Run) -> int:
    return int(run.data.tags[TRIAL])


def study_times(uri: str, name: str) -> list[tuple[float, float, float]]:
    """Returns when each trial of a study was begun, had its first evaluation, and ended, in seconds since the epoch."""
    study = TrackedStudy(uri, name)
    times = []
    for run in study.trials():
        first = min(metric.timestamp for metric in study.history(run, "val_loss"))
        times.append((run.info.start_time / 1e3, first / 1e3, run.info.end_time / 1e3))
    return times


def search_runs(client: MlflowClient, experiment_id: str, role: str, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    """Returns all runs of an experiment that have a role; deleted ones too with ViewType.ALL."""
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], f"tags.{ROLE} = '{role}'", view, 1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs
