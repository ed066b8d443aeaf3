"""The base of whatever has a regularizer: a schedule file, a run, an arm of a confirmation."""

from dataclasses import dataclass
from typing import Any

from model.depth import Depth
from model.families import Family
from model.regularizer import KEYS, PLAIN_DEPTH, PLAIN_FAMILY, PLAIN_SIZE_RULE, Regularizer
from model.schedules import Schedule
from model.size import SizeRule


@dataclass(frozen=True, kw_only=True)
class Regularized:
    """Something with a regularizer, given by its parts; the defaults are standard dropout, uniform over the layers."""

    schedule: Schedule
    family: Family = PLAIN_FAMILY
    depth: Depth = PLAIN_DEPTH
    size_rule: SizeRule = PLAIN_SIZE_RULE

    @property
    def regularizer(self) -> Regularizer:
        """The parts together."""
        return Regularizer(self.schedule, self.family, self.depth, self.size_rule)


def parts(regularizer: Regularizer) -> dict[str, Any]:
    """Returns the fields of a Regularized that has this regularizer."""
    return {name: getattr(regularizer, name) for name in KEYS}
