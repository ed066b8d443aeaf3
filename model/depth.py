"""Depth profiles: the share of the schedule's rate that each block gets, to and from plain dicts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from model.checks import FromDict, check_number, parse


class Depth(FromDict):
    """How the rate is spread over a model's blocks.

    The rate of a block is the schedule's rate times the block's weight. The weights of uniform, rising and falling have
    the mean 1, so that a rate means the same budget with each.
    """

    noun = "depth"
    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {
        "until": lambda name, value: check_number(name, value, "in (0, 1]", lambda x: 0 < x <= 1),
    }

    def weight(self, layer: int, n_layer: int, progress: float) -> float:
        """Returns the weight of the block `layer`, which counts from 0, of `n_layer`, at a share of training."""
        raise NotImplementedError


@dataclass(frozen=True)
class Uniform(Depth):
    """Every block has the schedule's rate."""

    kind = "uniform"

    def weight(self, layer: int, n_layer: int, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Rising(Depth):
    """The rate grows with the depth, as (layer + 1) / n_layer: stochastic depth (Huang et al. 2016), LIMA dropout."""

    kind = "rising"

    def weight(self, layer: int, n_layer: int, progress: float) -> float:
        return 2 * (layer + 1) / (n_layer + 1)


@dataclass(frozen=True)
class Falling(Depth):
    """The rate falls with the depth, as (n_layer - layer) / n_layer ("Dropout Universality", arXiv 2605.21648)."""

    kind = "falling"

    def weight(self, layer: int, n_layer: int, progress: float) -> float:
        return 2 * (n_layer - layer) / (n_layer + 1)


@dataclass(frozen=True)
class Annealed(Depth):
    """Block after block is switched off, the first block first: all are off at `until`, a share of training.

    Layer-wise annealing of Xu et al. (CVPR 2025, arXiv 2506.12738): in their code a site is switched off every 20,000
    of 500,000 iterations, the last of 17 at 0.68 of training. Theirs sets the mixing coefficient to 1, which is rate 0.
    """

    kind = "annealed"
    until: float

    def weight(self, layer: int, n_layer: int, progress: float) -> float:
        return 1.0 if progress < self.until * (layer + 1) / n_layer else 0.0


KINDS: dict[str, type[Depth]] = {c.kind: c for c in (Uniform, Rising, Falling, Annealed)}


def from_dict(d: Any) -> Depth:
    """Makes a depth profile from `kind` and its parameters.

    Raises:
        ValueError: names what was given, if the kind is unknown, a parameter is missing, unknown or out of range.
    """
    return parse("a depth", Depth, KINDS, d)
