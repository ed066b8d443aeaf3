"""The size of a sub-network of a supernet, and the rule by which it gets its dropout rate. Needs no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from model.checks import FromDict, parse, short


@dataclass(frozen=True)
class Size:
    """A sub-network: the first blocks, and in each block the first heads and hidden units.

    Attributes:
        width: the share of the heads and of the hidden units that it has, in (0, 1].
        depth: its blocks.
    """

    width: Fraction
    depth: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Reads `WIDTH,DEPTH`, as in `0.5,2` or `1/3,2`. Raises ValueError."""
        width, _, depth = text.partition(",")
        try:
            size = cls(Fraction(width), int(depth))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"a size must be WIDTH,DEPTH, as in 0.5,2 or 1/3,2, got {short(text)}") from None
        if not 0 < size.width <= 1 or size.depth < 1:
            raise ValueError(f"a size must have a width in (0, 1] and a depth of at least 1, got {short(text)}")
        return size

    def __str__(self) -> str:
        decimal = f"{float(self.width):.12g}"
        return f"{decimal if Fraction(decimal) == self.width else self.width},{self.depth}"

    @property
    def name(self) -> str:
        """Its name in metrics, as in `0.5x2`."""
        return f"{float(self.width):.4g}x{self.depth}"

    @property
    def share(self) -> Fraction:
        """Its share of the weights of all blocks, in multiples of a block."""
        return self.width * self.depth

    def of(self, n: int) -> int:
        """Returns how many of `n` heads or hidden units it has."""
        return int(self.width * n)

    def check(self, n_head: int, n_hidden: int, n_layer: int) -> None:
        """Raises ValueError if a model of that shape has no such sub-network."""
        if (self.width * n_head).denominator > 1 or (self.width * n_hidden).denominator > 1:
            raise ValueError(
                f"size {self} must have a whole number of the {n_head} heads and of the {n_hidden} hidden units: "
                f"give a width that is a multiple of 1/{n_head}"
            )
        if self.depth > n_layer:
            raise ValueError(f"size {self} must have at most {n_layer} blocks, as the model has")


class SizeRule(FromDict):
    """How the dropout rate of a sub-network follows from its size.

    A model that is no supernet has the width 1, at which every rule gives the schedule's rate.
    """

    noun = "size_rule"
    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {}

    def rate(self, rate: float, size: Size, *, is_largest: bool) -> float:
        """Returns the rate of a size where the schedule's is `rate`."""
        raise NotImplementedError


@dataclass(frozen=True)
class ByWidth(SizeRule):
    """The rate times the width: a narrower network needs less dropout."""

    kind = "width"

    def rate(self, rate: float, size: Size, *, is_largest: bool) -> float:
        return rate * float(size.width)


@dataclass(frozen=True)
class Same(SizeRule):
    """The same rate for all sizes."""

    kind = "same"

    def rate(self, rate: float, size: Size, *, is_largest: bool) -> float:
        return rate


@dataclass(frozen=True)
class LargestOnly(SizeRule):
    """The rate for the largest size, and no dropout for the others, as in AlphaNet's code."""

    kind = "largest"

    def rate(self, rate: float, size: Size, *, is_largest: bool) -> float:
        return rate if is_largest else 0.0


KINDS: dict[str, type[SizeRule]] = {c.kind: c for c in (ByWidth, Same, LargestOnly)}


def from_dict(d: Any) -> SizeRule:
    """Makes a size rule from its `kind`. Raises ValueError that names what was given."""
    return parse("a size_rule", SizeRule, KINDS, d)
