"""Standout: hidden units that receive much are kept more often."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from model.families.family import STANDARD, Family
from model.levels import LEVELS

if TYPE_CHECKING:
    from torch import Tensor

    from model.sites import FamilySite

SMALLEST = 1e-30
"""A sigmoid is cut to this: at rate 0 it is divided by itself."""


@dataclass(frozen=True)
class Standout(Family):
    """Ba & Frey 2013, "Adaptive dropout for training deep neural networks", on the MLP's hidden layer.

    A hidden unit h = GELU(z) is kept with probability theta = sigmoid(alpha z + logit(1 - p)), with p the rate:

        training:    h m / (1 - p), m ~ Bernoulli(theta)
        evaluation:  h theta / (1 - p), the expectation: no identity, so that the rate is saved with the weights

    alpha 0 is standard dropout at the site, bit for bit, in training and evaluation. theta / (1 - p) is computed as
    s / (s (1 - 2 p) + p), s = sigmoid(alpha z), which is exactly 1 there and where p is 0. No gradient flows through
    theta, save where it is learned.

    How it differs from the paper, whose algorithm 2 ties the mask's weights to the unit's own too: its bias beta is a
    parameter of its own, and here it is logit(1 - p), so that a rate means about the same share as in other families.
    The paper does not divide by 1 - p. To divide by a mean of theta over the batch would let tokens see later ones.

    Attributes:
        alpha: how much the pre-activation decides: below 0.25 hardly, above 2 it is a hard gate.
        learned: whether z in theta is pi x instead of the unit's own W x, x the MLP's input (the paper's algorithm 1).
            pi starts as a copy of W, and learns through m + theta - stop_gradient(theta). It has weight decay.
        calibrated: ours: whether z in theta is standardised over the token's channels. GELU's pre-activations are
            mostly negative: with the paper's z, 0.35 to 0.40 of the units were dropped at alpha 0.5 and p 0.2, and
            0.24 with the standardised at alpha 1 (2 layers of 128 channels, 2026-11-26).
        elsewhere: `standard` keeps standard dropout at the same rate on nanoGPT's four sites, `none` does not.
        sampled: False replaces m by theta in training, with the same gradients: the control "the gate without
            sampling". The evaluation's gate is an activation function of its own: a gain may come from that alone.
    """

    kind = "standout"
    sites = ("mlp_hidden",)
    works_in_eval = True
    alpha: float
    learned: bool = False
    calibrated: bool = True
    elsewhere: str = STANDARD
    sampled: bool = field(default=True, metadata={"omitted": True})

    def derived(self, threshold: int) -> Mapping[str, float]:
        dropped = threshold / LEVELS
        return {
            "dropped": dropped,
            "kept_more": 1 - 2 * dropped,  # than dropped
            "minus_kept": dropped - 1,
            "kept_levels": float(LEVELS - threshold),
        }

    def multiplier(self, site: "FamilySite", x: "Tensor", *causes: "Tensor") -> "Tensor":
        z, source = causes
        n = site.rate.numbers(x)
        logits = z.detach() if site.weight is None else site.linear(source, site.weight[: x.shape[-1]])
        logits = site.standardised(logits, self.alpha) if self.calibrated else logits.float() * self.alpha
        s = logits.detach().sigmoid().clamp_(min=SMALLEST)
        gate = s.div_((s * n["kept_more"]).add_(n["dropped"]))  # theta / (1 - p)
        mask: Tensor = gate
        if site.training and self.sampled:
            bits = site.draw_bits(x.shape, x)
            kept = (gate * n["kept_levels"]).add_(bits).gt_(LEVELS - 0.5)  # bits >= LEVELS (1 - theta), rounded
            mask = site.scaled(kept, n["scale"], x)
        if site.weight is None or not site.training:
            return mask
        slope = (gate * n["minus_kept"]).add_(1).mul_(gate)  # d gate / d logits
        return mask.addcmul(slope, logits - logits.detach())  # + 0, with the gate's gradient
