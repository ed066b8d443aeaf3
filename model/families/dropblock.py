"""Structured dropout: runs of neighbouring channels are dropped together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.families.family import STANDARD, Family
from model.levels import LEVELS

if TYPE_CHECKING:
    from torch import Tensor

    from model.sites import FamilySite

SMALLEST_MEAN = 1e-30


@dataclass(frozen=True)
class DropBlock(Family):
    """Zhao et al. 2023, "Revisiting structured dropout", arXiv 2210.02570, at the outputs of attention and MLP.

    The channels of a token are seen as n_head groups. Each channel begins a block with the seed rate
    q = 1 - (1 - p)^(1 / block), p the rate. A block is that channel and the next block - 1 of its group; after the
    group's last channel comes its first:

        y = x m / (1 - p), m = 0 where any block lies, else 1; in evaluation y = x

    A channel is kept if none of `block` channels begins a block, (1 - q)^block = 1 - p: exactly p is dropped, and block
    1 is standard dropout, bit for bit.

    How it differs from the paper, whose blocks are squares in an image: blocks have one dimension and lie within one
    token. The paper's rate is the seed rate: its 0.1 with block 4 drops 0.35 in one dimension. The paper divides by the
    share that was kept in the whole batch; the constant 1 - p couples no tokens.

    Attributes:
        block: channels that are dropped together, at most those of a head. The paper takes 4.
        elsewhere: `standard` keeps standard dropout at the same rate on nanoGPT's other two sites, `none` does not.
    """

    kind = "dropblock"
    sites = ("attention_output", "mlp_output")
    block: int
    elsewhere: str = STANDARD

    def check_heads(self, n_channels: int) -> None:
        if self.block > n_channels:
            raise ValueError(
                f"block of a {self.kind} family must be at most {n_channels}, the channels of a head, got {self.block}"
            )

    def derived(self, threshold: int) -> Mapping[str, float]:
        seed_levels = LEVELS * (1 - (1 - threshold / LEVELS) ** (1 / self.block))
        seed_threshold = round(seed_levels)
        block_scale = (LEVELS / (LEVELS - seed_threshold)) ** self.block  # 1 / (1 - p), for the rounded seed rate
        return {"seed_levels": seed_levels, "seed_threshold": seed_threshold, "block_scale": block_scale}

    def multiplier(self, site: "FamilySite", x: "Tensor", *causes: "Tensor") -> "Tensor":
        n = site.rate.numbers(x)
        no_seed = site.draw_kept(self._groups(site, x), n["seed_threshold"], x)
        return self._blocks(site, x, no_seed, n["block_scale"])

    @staticmethod
    def _groups(site: "FamilySite", x: "Tensor") -> tuple[int, ...]:
        return (*x.shape[:-1], site.n_head, x.shape[-1] // site.n_head)

    def _blocks(self, site: "FamilySite", x: "Tensor", kept: "Tensor", scale: "Tensor | float") -> "Tensor":
        """Returns the multiplier, of the shape of `x`, given 0 where a block begins, else 1."""
        length = 1
        while length < self.block:
            step = min(length, self.block - length)
            kept = kept & kept.roll(step, -1)
            length += step
        return site.scaled(kept, scale, x).expand(self._groups(site, x)).reshape(x.shape)


@dataclass(frozen=True)
class BatchDropBlock(DropBlock):
    """As `dropblock`, with the same blocks in all heads of a token (the paper's: in all channels of an image)."""

    kind = "batchdropblock"

    def multiplier(self, site: "FamilySite", x: "Tensor", *causes: "Tensor") -> "Tensor":
        n = site.rate.numbers(x)
        no_seed = site.draw_kept((*x.shape[:-1], 1, x.shape[-1] // site.n_head), n["seed_threshold"], x)
        return self._blocks(site, x, no_seed, n["block_scale"])


@dataclass(frozen=True)
class ProbDropBlock(DropBlock):
    """As `dropblock`, with the seed rate q |x| / mean |x|, at most 1: large features begin a block more often.

    The mean is over the token's channels, so that no token sees another; the paper's is over a feature map. The share
    dropped is p for features of equal magnitude, and close to p else: 0.197 to 0.204 for p 0.2 and normal features.
    """

    kind = "probdropblock"

    def multiplier(self, site: "FamilySite", x: "Tensor", *causes: "Tensor") -> "Tensor":
        n = site.rate.numbers(x)
        size = x.detach().float().abs()
        seed_levels = size * (n["seed_levels"] / size.mean(-1, keepdim=True).clamp(min=SMALLEST_MEAN))
        no_seed = site.draw_bits(x.shape, x) > seed_levels - 0.5  # bits >= the levels, rounded
        return self._blocks(site, x, no_seed.view(self._groups(site, x)), n["scale"])
