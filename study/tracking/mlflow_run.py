"""What MLflow has of a run, as far as this process has asked or sent it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from study.tracking.run_points import Point, RunPoints


@dataclass(kw_only=True)
class MLflowRun:
    """What MLflow has of a run.

    Attributes:
        params: the names.
        latest_ms: the time of the newest point that is known.
        files: reads the run's folder, from where the last reading ended.
    """

    client: MlflowClient
    run_id: str
    status: str
    params: set[str]
    tags: dict[str, str]
    started_ms: int
    is_new: bool
    latest_ms: int = 0
    files: RunPoints | None = None
    _histories: dict[str, set[int]] = field(default_factory=dict)  # of each metric that was asked for, the steps
    _times: dict[int, int] = field(default_factory=dict)  # of each step

    @classmethod
    def found(cls, client: MlflowClient, run: Run) -> "MLflowRun":
        """Returns a run that MLflow has; its points are asked for when some are to be sent."""
        return cls(
            client=client,
            run_id=run.info.run_id,
            status=run.info.status,
            params=set(run.data.params),
            tags=dict(run.data.tags),
            started_ms=run.info.start_time,
            is_new=False,
        )

    @classmethod
    def created(cls, client: MlflowClient, run: Run, tags: dict[str, str]) -> "MLflowRun":
        """Returns a run that was made just now, and has no points."""
        return cls(
            client=client,
            run_id=run.info.run_id,
            status=run.info.status,
            params=set(),
            tags=dict(tags),
            started_ms=run.info.start_time,
            is_new=True,
        )

    @property
    def has_points(self) -> bool:
        """Whether the run has made an evaluation."""
        return self.files is not None and self.files.last_step >= 0

    def lacks(self, points: Iterable[Point]) -> list[Metric]:
        """Returns the points that MLflow lacks, by step. A point's time lies between those of the steps around it."""
        points = list(points)
        for name in {point.metric for point in points}:
            self._ask(name)
        lacking = {(p.step, p.metric): p for p in points if p.step not in self._histories[p.metric]}
        metrics = []
        for (step, name), point in sorted(lacking.items()):
            self._times.setdefault(step, self._between(step, point.time_ms))
            metrics.append(Metric(name, point.value, self._times[step], step))
        return metrics

    def note(self, metrics: Iterable[Metric]) -> None:
        """Notes points that were sent."""
        for metric in metrics:
            self._histories[metric.key].add(metric.step)
            self.latest_ms = max(self.latest_ms, metric.timestamp)

    def forget_points(self) -> None:
        """Frees the memory of what a run that is closed does not need."""
        self._histories, self._times, self.is_new, self.files = {}, {}, False, None

    def _ask(self, name: str) -> None:
        if name not in self._histories:
            history = [] if self.is_new else self.client.get_metric_history(self.run_id, name)
            self._histories[name] = {point.step for point in history}
            self._times |= {point.step: point.timestamp for point in history}
            self.latest_ms = max([self.latest_ms, *(point.timestamp for point in history)])

    def _between(self, step: int, time_ms: int) -> int:
        if step > max(self._times, default=-1):  # nearly always
            return max(time_ms, self._times[max(self._times)] if self._times else 0)
        before = [at for earlier, at in self._times.items() if earlier < step]
        after = [at for later, at in self._times.items() if later > step]
        return max([min([time_ms, *after]), *before])
