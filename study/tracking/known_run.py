"""What MLflow has of a run, as far as this process has asked or sent it."""

from collections.abc import Iterable

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from study.base.names import OUTCOME, REASON
from study.tracking.run_points import Point, RunPoints


class KnownRun:
    """What MLflow has of a run. The points of a run that is not new are asked for when some are to be sent.

    Attributes:
        params: the names of the params.
        files: reads the run's folder, from where the last reading ended.
        latest_ms: the time of the newest point that is known.
    """

    def __init__(self, client: MlflowClient, run: Run, *, is_new: bool) -> None:
        self._client, self._is_new = client, is_new
        self.run_id, self.status, self.started_ms = run.info.run_id, run.info.status, run.info.start_time
        self.params, self.tags = set(run.data.params), dict(run.data.tags)
        self.files: RunPoints | None = None
        self.latest_ms = 0
        self._steps: dict[str, set[int]] = {}  # of each metric that was asked for
        self._times: dict[int, int] = {}  # of each step

    @property
    def end_tags(self) -> dict[str, str]:
        """The tags that only a run with an end has."""
        return {key: self.tags[key] for key in (OUTCOME, REASON) if key in self.tags}

    def lacks(self, points: Iterable[Point]) -> list[Metric]:
        """Returns the points that MLflow lacks, by step. A point's time lies between those of the steps around it."""
        lacking = {(p.step, p.metric): p for p in points if p.step not in self._steps_of(p.metric)}
        for step, name in sorted(lacking):
            if step not in self._times:
                before = [at for earlier, at in self._times.items() if earlier < step]
                after = [at for later, at in self._times.items() if later > step]
                self._times[step] = max([min([lacking[step, name].time_ms, *after]), *before])
        return [Metric(name, p.value, self._times[step], step) for (step, name), p in sorted(lacking.items())]

    def note(self, metrics: Iterable[Metric]) -> None:
        """Notes points that were sent."""
        for metric in metrics:
            self._steps[metric.key].add(metric.step)
            self.latest_ms = max(self.latest_ms, metric.timestamp)

    def forget_points(self) -> None:
        """Frees the memory of what a run that is closed does not need."""
        self._steps, self._times, self._is_new, self.files = {}, {}, False, None

    def _steps_of(self, metric: str) -> set[int]:
        if metric not in self._steps:
            history = [] if self._is_new else self._client.get_metric_history(self.run_id, metric)
            self._steps[metric] = {point.step for point in history}
            self._times |= {point.step: point.timestamp for point in history}
            self.latest_ms = max([self.latest_ms, *(point.timestamp for point in history)])
        return self._steps[metric]
