"""Schedule files: a regularizer, the training config that it was found with, and where it comes from, as YAML."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from model.checks import short
from model.regularizer import Regularizer
from study.base.errors import UserError
from study.base.files import atomic_path
from study.base.regularizers import DEPTH, FAMILY, SCHEDULE
from study.training.config import TrainingConfig
from study.training.regularized import Regularized, parts

FORMAT = "dynamic-dropout-schedule"
PLAIN, VERSION = 1, 2
"""Formats: PLAIN has a schedule of standard dropout alone, and VERSION a family and a depth too."""
MAX_BYTES = 1_000_000
_KEYS = ("format", SCHEDULE, FAMILY, DEPTH, "training", "provenance")


@dataclass(frozen=True, kw_only=True)
class ScheduleFile(Regularized):
    """What a schedule file says. One written by hand has a format and a schedule, and perhaps a family and a depth."""

    training: TrainingConfig | None = None
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
    if len(raw) > MAX_BYTES:
        raise UserError(f"schedule file {path} is larger than {MAX_BYTES} bytes: this is no schedule file")
    try:
        d = yaml.load(raw, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none, bad UTF-8
        problem = getattr(error, "problem", None) or error
        line = f", line {mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else ""
        raise UserError(f"schedule file {path}{line}, is not YAML: {problem}") from None
    try:
        return _parse(d)
    except ValueError as error:
        raise UserError(f"schedule file {path}: {error}") from None


class _Loader(yaml.SafeLoader):
    """YAML as it is defined: a mapping with the same key twice is an error, where PyYAML takes the last of them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Returns a mapping."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {short(key.value)} stands twice: leave one out", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse(d: Any) -> ScheduleFile:
    if not isinstance(d, dict):
        raise ValueError(f"must be a mapping with the keys {', '.join(_KEYS)}, got a {type(d).__name__}")
    given = d.get("format")
    name, _, version = given.partition("/") if isinstance(given, str) else ("", "", "")
    if name != FORMAT or not (version.isascii() and version.isdecimal()) or not version.strip("0"):
        raise ValueError(f"format must be {FORMAT}/{PLAIN} or /{VERSION}, got {short(d.get('format'))}")
    if int(version[:9]) > VERSION:
        raise ValueError(f"format is {short(d['format'])}, newer than {FORMAT}/{VERSION}: upgrade this tool")
    if unknown := [key for key in d if key not in _KEYS]:
        raise ValueError(f"unknown key {short(unknown[0])}: it may have {', '.join(_KEYS)}")
    regularizer = {key: d[key] for key in (SCHEDULE, FAMILY, DEPTH) if key in d}
    if SCHEDULE not in regularizer:
        raise ValueError("it has no schedule")
    if int(version[:9]) == PLAIN and len(regularizer) > 1:
        raise ValueError(f"a {list(regularizer)[1]} needs format {FORMAT}/{VERSION}, got {short(d['format'])}")
    provenance = d.get("provenance")
    if provenance is not None and not isinstance(provenance, dict):
        raise ValueError(f"provenance must be a mapping, got {short(provenance)}")
    training = d.get("training")
    return ScheduleFile(
        **parts(Regularizer.from_dict(regularizer)),
        training=None if training is None else TrainingConfig.from_dict(training),
        provenance=provenance,
    )
