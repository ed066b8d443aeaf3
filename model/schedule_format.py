"""The format of schedule files: which keys they have, and which regularizer they hold. Everything reads them here."""

from collections.abc import Mapping
from typing import Any

import yaml

from model.checks import short
from model.regularizer import KEYS as PARTS
from model.regularizer import Regularizer

FORMAT = "dynamic-dropout-schedule"
PLAIN, VERSION = 1, 2
"""Formats: PLAIN has a schedule of standard dropout alone, and VERSION the other PARTS too."""
KEYS = ("format", *PARTS, "training", "provenance")
MAX_BYTES = 1_000_000


def load_yaml(raw: bytes) -> Any:
    """Returns what a schedule file's bytes say. Raises ValueError if they are too many, or no YAML."""
    if len(raw) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes: this is no schedule file")
    try:
        return yaml.load(raw, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none, bad UTF-8
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        line = f"line {mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else "it"
        raise ValueError(f"{line} is not YAML: {problem}") from None


def parse(d: Any) -> Regularizer:
    """Returns the regularizer of a schedule file's content.

    Raises:
        ValueError: names what was given, if the format is another or newer, a key is unknown, or a value is refused.
    """
    if not isinstance(d, Mapping):
        raise ValueError(f"must be a mapping with the keys {', '.join(KEYS)}, got a {type(d).__name__}")
    given = d.get("format")
    name, _, version = given.partition("/") if isinstance(given, str) else ("", "", "")
    if name != FORMAT or not (version.isascii() and version.isdecimal()) or not version.strip("0"):
        raise ValueError(f"format must be {FORMAT}/{PLAIN} or /{VERSION}, got {short(given)}")
    if int(version[:9]) > VERSION:
        raise ValueError(f"format is {short(given)}, newer than {FORMAT}/{VERSION}: upgrade this tool")
    if unknown := [key for key in d if key not in KEYS]:
        raise ValueError(f"unknown key {short(unknown[0])}: it may have {', '.join(KEYS)}")
    regularizer = {key: d[key] for key in PARTS if key in d}
    if "schedule" not in regularizer:
        raise ValueError("it has no schedule")
    if int(version[:9]) == PLAIN and len(regularizer) > 1:
        raise ValueError(f"a {list(regularizer)[1]} needs format {FORMAT}/{VERSION}, got {short(given)}")
    return Regularizer.from_dict(regularizer)


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
