"""A regularizer: how much is dropped over time (schedule), over blocks (depth) and sizes (size_rule), and of what."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model import depth, families, schedules, size
from model.checks import short
from model.depth import Depth, Uniform
from model.families import Family, Standard
from model.levels import LEVELS
from model.schedules import Schedule
from model.size import ByWidth, SizeRule

PLAIN_FAMILY, PLAIN_DEPTH, PLAIN_SIZE_RULE = Standard(), Uniform(), ByWidth()
KEYS = ("schedule", "family", "depth", "size_rule")
LARGEST_RATE = 1 - 1 / LEVELS
"""A larger rate is cut to this, which a weight above 1 can bring about."""


@dataclass(frozen=True)
class Regularizer:
    """A schedule, a family, a depth, and a rule for the sizes of a supernet; only the schedule is required.

    It listens to evaluations and has a state as its schedule does.
    """

    schedule: Schedule
    family: Family = PLAIN_FAMILY
    depth: Depth = PLAIN_DEPTH
    size_rule: SizeRule = PLAIN_SIZE_RULE

    @classmethod
    def from_dict(cls, d: Any) -> "Regularizer":
        """Makes a regularizer from a regularizer's dict, which has a `schedule`, or from a schedule's, with a `kind`.

        The schedule's state is new.

        Raises:
            ValueError: names what was given, if a key is missing or unknown, or a value is refused.
        """
        if not isinstance(d, Mapping):
            raise ValueError(f"a regularizer must be a mapping with a schedule, got {short(d)}")
        if "schedule" not in d and "kind" in d:
            return cls(schedules.from_dict(d))
        if unknown := [key for key in d if key not in KEYS]:
            raise ValueError(f"a regularizer has no key {short(unknown[0])}: it has {', '.join(KEYS)}")
        if "schedule" not in d:
            raise ValueError(f"a regularizer needs a schedule, got {short(dict(d))}")
        return cls(
            schedules.from_dict(d["schedule"]),
            families.from_dict(d["family"]) if "family" in d else PLAIN_FAMILY,
            depth.from_dict(d["depth"]) if "depth" in d else PLAIN_DEPTH,
            size.from_dict(d["size_rule"]) if "size_rule" in d else PLAIN_SIZE_RULE,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the plain dict from which `from_dict` makes an equal regularizer. Defaults are not in it."""
        d: dict[str, Any] = {"schedule": self.schedule.to_dict()}
        if self.family != PLAIN_FAMILY:
            d["family"] = self.family.to_dict()
        if self.depth != PLAIN_DEPTH:
            d["depth"] = self.depth.to_dict()
        if self.size_rule != PLAIN_SIZE_RULE:
            d["size_rule"] = self.size_rule.to_dict()
        return d

    @property
    def is_plain(self) -> bool:
        """Whether all else is the default, so that the schedule says everything."""
        return self == Regularizer(self.schedule)

    def rate(self, progress: float) -> float:
        """Returns the schedule's rate at a share of training: the nominal rate, which records and plots show."""
        return self.schedule.rate(progress)

    def rates(self, progress: float, n_layer: int) -> tuple[float, ...]:
        """Returns the rate of each block, in [0, 1)."""
        rate = self.schedule.rate(progress)
        weights = (self.depth.weight(layer, n_layer, progress) for layer in range(n_layer))
        return tuple(min(rate * weight, LARGEST_RATE) for weight in weights)

    def observe(self, val_loss: float) -> None:
        """Receives the result of one evaluation."""
        self.schedule.observe(val_loss)

    def state_dict(self) -> dict[str, Any]:
        """Returns the schedule's state."""
        return self.schedule.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""
        self.schedule.load_state_dict(state)
