"""Schedules from files and dicts, without what belongs to the training that found them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from model.checks import short
from model.regularizer import Regularizer
from model.schedules import Schedule

FORMATS = {
    "dynamic-dropout-schedule/1": ("format", "schedule", "training", "provenance"),
    "dynamic-dropout-schedule/2": ("format", "schedule", "family", "depth", "training", "provenance"),
}
Source = str | Path | Mapping[str, Any] | Regularizer | Schedule
"""A file, or a dict, or what was read from one."""


def read_schedule(source: Source) -> Regularizer:
    """Returns the regularizer of a schedule file, or of a dict: a schedule's, a regularizer's or a whole file's.

    A regularizer is returned as it is, with the state that it has. A file's `training` and `provenance` are not read.

    Raises:
        OSError: if the file cannot be read.
        ValueError: names what was given, if the file is not YAML, has another format, or a value is refused.
    """
    if isinstance(source, Regularizer):
        return source
    if isinstance(source, Schedule):
        return Regularizer(source)
    if isinstance(source, str | Path):
        try:
            return _of_file(yaml.safe_load(Path(source).read_text(encoding="utf-8")))
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"schedule file {source}: {' '.join(str(error).split())}") from None
    if isinstance(source, Mapping) and "format" in source:
        return _of_file(source)
    return Regularizer.from_dict(source)


def _of_file(d: Any) -> Regularizer:
    if not isinstance(d, Mapping):
        raise ValueError(f"it must be a mapping with a format and a schedule, got {short(d)}")
    keys = FORMATS.get(given) if isinstance(given := d.get("format"), str) else None
    if keys is None:
        raise ValueError(f"format must be {' or '.join(FORMATS)}, got {short(given)}")
    if unknown := [key for key in d if key not in keys]:
        raise ValueError(f"unknown key {short(unknown[0])}: a file of {given} has {', '.join(keys)}")
    if "schedule" not in d:
        raise ValueError("it has no schedule")
    return Regularizer.from_dict({key: d[key] for key in ("schedule", "family", "depth") if key in d})
