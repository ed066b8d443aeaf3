"""Regularizers as plain dicts: a schedule, and a family, a depth and a size_rule where these are not the defaults.

Optuna's attributes, evaluations, verdicts and MLflow's params hold the parts under these names. What an earlier version
wrote has a schedule only.
"""

import json
from collections.abc import Mapping
from typing import Any

from model.checks import short
from study.base.errors import UserError

SCHEDULE, FAMILY, DEPTH, SIZE_RULE = PARTS = ("schedule", "family", "depth", "size_rule")
DEFAULTS: dict[str, dict[str, Any]] = {
    FAMILY: {"kind": "standard"},
    DEPTH: {"kind": "uniform"},
    SIZE_RULE: {"kind": "width"},
}


def as_regularizer(suggested: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the regularizer that a search space suggests, which may be a schedule alone.

    Its values are checked where it is trained. Raises UserError if it, or a part of it, is no mapping with a kind.
    """
    whole = suggested if isinstance(suggested, Mapping) and SCHEDULE in suggested else {SCHEDULE: suggested}
    for name, part in whole.items():
        if name not in PARTS or not isinstance(part, Mapping) or "kind" not in part:
            raise UserError(
                f"the search space suggests {short(suggested)}: it must return a schedule's dict with its kind, or a "
                f"regularizer's with {SCHEDULE}, and perhaps {FAMILY}, {DEPTH} and {SIZE_RULE}, each with its kind"
            )
    return parts_of(whole)


def parts_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the regularizer in a record that has more keys, without parts that are the defaults."""
    parts = {name: record[name] for name in PARTS if record.get(name) is not None}
    return {name: value for name, value in parts.items() if value != DEFAULTS.get(name)}


def parts_of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the regularizer of an evaluation or a run, whose columns hold JSON."""
    return parts_of({name: json.loads(row[name]) for name in PARTS if row.get(name) is not None})


def as_columns(regularizer: Mapping[str, Any]) -> dict[str, str]:
    """Returns the columns of a regularizer, as JSON; those of the defaults too, so that a table has no gaps."""
    return {name: json.dumps(regularizer.get(name, DEFAULTS.get(name))) for name in PARTS}


def family_kind(regularizer: Mapping[str, Any]) -> str:
    """Returns what is dropped, by the name of its kind."""
    return str(regularizer.get(FAMILY, DEFAULTS[FAMILY])["kind"])


def depth_kind(regularizer: Mapping[str, Any]) -> str:
    """Returns how the rate is shared over the layers, by the name of its kind."""
    return str(regularizer.get(DEPTH, DEFAULTS[DEPTH])["kind"])
