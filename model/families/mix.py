"""Mixing: features are blended with their dropped selves."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.families.family import STANDARD, Family
from model.levels import LEVELS, threshold_of

if TYPE_CHECKING:
    from torch import Tensor

    from model.sites import FamilySite


@dataclass(frozen=True)
class Mix(Family):
    """Xu et al. 2025, "Adaptive Dropout" for blind super-resolution, arXiv 2506.12738, before the MLP's GELU.

        y = lambda z + (1 - lambda) z m / (1 - r), m ~ Bernoulli(1 - r); in evaluation y = z

    r is `drop`, and lambda follows from the rate p: 1 - lambda = sqrt(p (1 - r) / ((1 - p) r)), at most 1, so that the
    variance of the multiplier is p / (1 - p), as in standard dropout at p. A rate of r and more is standard dropout at
    r, bit for bit. No feature is ever 0 at a lower rate.

    How it differs from the paper, whose code has a fixed lambda of 0.3 with r 0.5 (p 0.329) between a convolution and
    its ReLU: lambda follows the schedule. The paper switches layer after layer off: the depth `annealed` until 0.68.

    Attributes:
        drop: r. The paper takes 0.5, the methods before it 0.7.
        over_time: whether all tokens of a sequence share one mask (the paper drops whole channels of an image).
        elsewhere: `standard` keeps standard dropout at the same rate on nanoGPT's four sites, `none` does not.
    """

    kind = "mix"
    sites = ("before_gelu",)
    drop: float
    over_time: bool = True
    elsewhere: str = STANDARD

    def derived(self, threshold: int) -> Mapping[str, float]:
        p, own = threshold / LEVELS, self._threshold
        r = own / LEVELS
        dropped_share = 1.0 if threshold >= own else math.sqrt(p * (1 - r) / ((1 - p) * r))  # 1 - lambda
        return {"dropped_scale": dropped_share * (LEVELS / (LEVELS - own)), "unchanged": 1 - dropped_share}

    def multiplier(self, site: "FamilySite", x: "Tensor", *causes: "Tensor") -> "Tensor":
        n = site.rate.numbers(x)
        B, T, C = x.shape
        kept = site.draw_kept((B, 1 if self.over_time else T, C), self._threshold, x)
        mixed: Tensor = site.scaled(kept, n["dropped_scale"], x) + n["unchanged"]
        return mixed

    @property
    def _threshold(self) -> int:
        return max(1, threshold_of(self.drop))
