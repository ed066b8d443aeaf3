"""The size of a sub-network of a supernet, and the dropout rate that it gets. Needs no torch."""

from dataclasses import dataclass
from fractions import Fraction

from model.checks import short

DROPOUT_RULES = ("width", "same", "largest")
"""`width`: a size of width w gets p w, p the rate. `same`: all sizes get p. `largest`: only the largest gets it."""


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

    def rate(self, rule: str, rate: float, *, is_largest: bool) -> float:
        """Returns the dropout rate of this size where the schedule's is `rate`: see DROPOUT_RULES."""
        if rule == "width":
            return rate * float(self.width)
        return rate if rule == "same" or is_largest else 0.0
