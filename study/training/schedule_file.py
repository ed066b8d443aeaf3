"""Schedule files: a regularizer, the training config that it was found with, and where it comes from, as YAML."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from model.checks import short
from model.schedule_format import FORMAT, MAX_BYTES, PLAIN, VERSION, load_yaml, parse
from study.base.errors import UserError
from study.base.files import atomic_path
from study.training.regularized import Regularized, parts
from study.training.task_config import RunConfig, read_config


@dataclass(frozen=True, kw_only=True)
class ScheduleFile(Regularized):
    """What a schedule file says. One written by hand has a format and a schedule, and perhaps a family and a depth."""

    training: RunConfig | None = None
    provenance: dict[str, Any] | None = None

    def to_yaml(self) -> str:
        """Returns the file's text, which a reader of the oldest format understands if it can."""
        keys = {
            "format": f"{FORMAT}/{PLAIN if self.regularizer.is_plain else VERSION}",
            **self.regularizer.to_dict(),
            "training": self.training and asdict(self.training),
            "provenance": self.provenance,
        }
        text: str = yaml.safe_dump({k: v for k, v in keys.items() if v is not None}, sort_keys=False, width=120)
        return text

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        with atomic_path(path, durable=True) as part:
            part.write_text(self.to_yaml(), encoding="utf-8")


def read_schedule_file(path: Path) -> ScheduleFile:
    """Reads a schedule file.

    Raises:
        UserError: if it cannot be read, is malformed, of a newer format, or has an unknown key.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"schedule file {path} cannot be read: {error.strerror}") from None
    try:
        return _parse(load_yaml(raw))
    except ValueError as error:
        raise UserError(f"schedule file {path}: {error}") from None


def _parse(d: Any) -> ScheduleFile:
    regularizer = parse(d)
    provenance, training = d.get("provenance"), d.get("training")
    if provenance is not None and not isinstance(provenance, dict):
        raise ValueError(f"provenance must be a mapping, got {short(provenance)}")
    return ScheduleFile(
        **parts(regularizer),
        training=None if training is None else read_config(training),
        provenance=provenance,
    )
