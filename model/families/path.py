"""Stochastic depth: whole blocks are skipped."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.families.family import Family

if TYPE_CHECKING:
    from torch import Tensor

    from model.sites import FamilySite


@dataclass(frozen=True)
class Path(Family):
    """Huang et al. 2016, "Deep networks with stochastic depth": a block is skipped, for each sequence on its own.

        y = x + f(x) m / (1 - p), m ~ Bernoulli(1 - p), one m a block and sequence; in evaluation y = x + f(x)

    f is all that the block adds to the stream, by its attention and by its MLP.

    How it differs from the paper: the paper skips a block for a whole batch, and multiplies by 1 - p in evaluation. Its
    rate rises over the blocks, from almost 0 to p: the depth `rising`. A skipped block is computed all the same.

    Nothing else is dropped. Its `sites` are the outputs of attention and MLP, which the branch consists of.
    """

    kind = "path"
    sites = ("attention_output", "mlp_output")

    @property
    def places(self) -> tuple[str, ...]:
        return ("block",)

    def multiplier(self, site: "FamilySite", x: "Tensor", *causes: "Tensor") -> "Tensor":
        n = site.rate.numbers(x)
        return site.scaled(site.draw_kept((x.shape[0], 1, 1), n["threshold"], x), n["scale"], x)
