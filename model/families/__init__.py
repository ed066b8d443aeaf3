"""The dropout families: what is dropped, to and from plain dicts. One file a family."""

from typing import Any

from model.checks import parse
from model.families.dropblock import BatchDropBlock, DropBlock, ProbDropBlock
from model.families.family import ELSEWHERE, NANOGPT_SITES, SITES, Family
from model.families.mix import Mix
from model.families.path import Path
from model.families.standard import Standard
from model.families.standout import Standout

__all__ = [
    "ELSEWHERE", "KINDS", "NANOGPT_SITES", "SITES", "BatchDropBlock", "DropBlock", "Family", "Mix", "Path",
    "ProbDropBlock", "Standard", "Standout", "control", "from_dict",
]  # fmt: skip

KINDS: dict[str, type[Family]] = {
    c.kind: c for c in (Standard, Standout, DropBlock, BatchDropBlock, ProbDropBlock, Mix, Path)
}


def from_dict(d: Any) -> Family:
    """Makes a family from `kind` and its parameters.

    Raises:
        ValueError: names what was given, if the kind is unknown, a parameter is missing, unknown or out of range.
    """
    return parse("a family", Family, KINDS, d)


def control(family: Family) -> Standard:
    """Returns standard dropout at all sites where `family` drops anything, those of its `elsewhere` included."""
    return Standard(family.all_sites)
