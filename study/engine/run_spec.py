"""One run of a study, whichever source it comes from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from study.base.names import TRIAL, Key
from study.base.regularizers import parts_of
from study.training.task_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run of a study.

    Attributes:
        key: the trial's number, or the name of another run.
        title: what a person calls the run.
        regularizer: as a plain dict; it is not checked before a worker trains with it.
        name: the run's name in MLflow, and `tags`: its tags there.
        place: where in the study's folder the run's folder is.
        protected: whether early stopping spares the run.
        group: early stopping compares the run with those of its group only.
        full_evaluation: whether the run is measured as a confirmation wants it.
    """

    key: Key
    title: str
    name: str
    regularizer: Mapping[str, Any]
    training: RunConfig
    place: Path
    tags: Mapping[str, str] = field(default_factory=dict)
    protected: bool = False
    group: str = ""
    full_evaluation: bool = False

    @property
    def trial(self) -> int | None:
        """The number of the trial that the run is, or repeats with another seed; None for a confirmation's run."""
        number = self.key if isinstance(self.key, int) else self.tags.get(TRIAL)
        return None if number is None else int(number)

    def params(self) -> dict[str, Any]:
        """Returns the run's params in MLflow: `family.*` and `depth.*` only where they are not the defaults."""
        return flat(parts_of(self.regularizer) | {"training": asdict(self.training)})


def flat(d: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dicts to dotted keys: {"schedule": {"kind": x}} gives {"schedule.kind": x}."""
    items: dict[str, Any] = {}
    for key, value in d.items():
        items |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return items
