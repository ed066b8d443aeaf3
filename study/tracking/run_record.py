"""How a run should look in MLflow, as its driver describes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from study.base.names import Key

RUNNING = "RUNNING"
Artifact = tuple[str, str | None]
"""A file's path in the root folder, and its artifact folder."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """How a run should look in MLflow, but for its evaluations, which are in its folder.

    Attributes:
        key: the trial's number, the name of another run, or PARENT_RUN.
        place: where in the root folder the run's folder is; None for the parent run.
        points: the metrics that no folder has, as (name, step, value).
        closing_files: are sent before the run is closed, and never again.
        more_files: are sent whenever they have changed.
        status: MLflow's, and `end_tags`: the tags that only a run with an end has.
        is_final: whether nothing of the run will change after its end.
        started_ms: when it began, in milliseconds since the epoch; None for the time at which MLflow hears of it.
        ended_ms: likewise.
    """

    key: Key
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    place: str | None = None
    points: tuple[tuple[str, int, float], ...] = ()
    closing_files: tuple[Artifact, ...] = ()
    more_files: tuple[Artifact, ...] = ()
    status: str = RUNNING
    end_tags: Mapping[str, str] = field(default_factory=dict)
    is_final: bool = False
    started_ms: int | None = None
    ended_ms: int | None = None
