"""The base of whatever has a regularizer: a schedule file, a run, an arm of a confirmation."""

from dataclasses import dataclass
from typing import Any

from model.depth import Depth
from model.families import Family
from model.regularizer import PLAIN_DEPTH, PLAIN_FAMILY, Regularizer
from model.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Regularized:
    """Something with a regularizer, given by its parts; the defaults are standard dropout, uniform over the layers."""

    schedule: Schedule
    family: Family = PLAIN_FAMILY
    depth: Depth = PLAIN_DEPTH

    @property
    def regularizer(self) -> Regularizer:
        """The parts together."""
        return Regularizer(self.schedule, self.family, self.depth)


def parts(regularizer: Regularizer) -> dict[str, Any]:
    """Returns the fields of a Regularized that has this regularizer."""
    return {"schedule": regularizer.schedule, "family": regularizer.family, "depth": regularizer.depth}
