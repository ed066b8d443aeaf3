"""Run folders as a worker leaves them, made without a training."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from study.base.names import Key
from study.tracking.run_points import write_time
from study.tracking.run_record import RunRecord
from study.training.evaluation_rows import METRICS, METRICS_FILE, SCHEMA

PLACE = Path("trials", "00000")
COMPLETED: dict[str, Any] = {"status": "FINISHED", "end_tags": {"outcome": "completed"}, "is_final": True}


def line(step: int, outcome: str | None = None) -> bytes:
    """Returns an evaluation's line."""
    values = dict.fromkeys(SCHEMA.names) | dict.fromkeys(METRICS, 0.5)
    return json.dumps(values | {"step": step, "val_loss": 1.0 + step, "outcome": outcome}).encode() + b"\n"


def evaluate(root: Path, steps: Iterable[int], times_ms: Iterable[int] = (), place: Path = PLACE) -> Path:
    """Adds evaluations to a run's folder, and their times; returns their file."""
    folder = root / place
    folder.mkdir(parents=True, exist_ok=True)
    steps = list(steps)
    with (folder / METRICS_FILE).open("ab") as file:
        file.write(b"".join(map(line, steps)))
    for step, time_ms in zip(steps, times_ms, strict=False):
        write_time(folder, step, time_ms)
    return folder / METRICS_FILE


def trial(key: Key = 0, place: Path = PLACE, **more: Any) -> RunRecord:
    """Returns how a trial should look, which goes on unless `more` says otherwise."""
    return RunRecord(key=key, name=f"trial-{key}", place=str(place), **{"params": {}, "tags": {}} | more)
