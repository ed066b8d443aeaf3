"""The file verdict.json: its format, and how it is written and read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from study.base.errors import UserError
from study.base.files import atomic_path

FORMAT = "dynamic-dropout-verdict/1"
NAME = "verdict.json"


def write_verdict(verdict: Mapping[str, Any], folder: Path) -> Path:
    """Writes verdict.json into a folder; returns its path."""
    path = folder / NAME
    with atomic_path(path) as part:
        part.write_text(json.dumps(verdict, indent=1, allow_nan=False), encoding="utf-8")
    return path


def read_verdict(folder: Path) -> dict[str, Any] | None:
    """Returns the verdict in a folder; None if there is none. Raises UserError if the file is damaged."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        verdict: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if verdict["format"] != FORMAT:
            raise ValueError(f"its format is {verdict['format']!r:.80}, and this tool reads {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it and run study.confirm again") from None
    return verdict


def is_whole(verdict: Mapping[str, Any], seeds: int | None) -> bool:
    """Whether a verdict lacks no run and covers so many seeds; None if its looks decide how many there are."""
    if any(arm["failed"] for arm in verdict["arms"]):
        return False
    if seeds is None:
        looks = verdict.get("sequential")
        return looks is not None and looks["stopped"] is not None
    return len(verdict["seeds"]) == seeds
