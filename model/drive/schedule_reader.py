"""Schedules from files and dicts, without what belongs to the training that found them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.regularizer import Regularizer
from model.schedule_format import MAX_BYTES, load_yaml, parse
from model.schedules import Schedule

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
        with Path(source).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        try:
            return parse(load_yaml(raw))
        except ValueError as error:
            raise ValueError(f"schedule file {source}: {error}") from None
    if isinstance(source, Mapping) and "format" in source:
        return parse(source)
    return Regularizer.from_dict(source)
