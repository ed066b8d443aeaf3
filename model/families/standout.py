"""Standout: units that are active are kept more often."""

from dataclasses import dataclass, field

from model.families.family import STANDARD, Family


@dataclass(frozen=True)
class Standout(Family):
    """Hidden units of the MLP are dropped by what they receive (Ba & Frey 2013, "Adaptive dropout", algorithm 2).

    Attributes:
        alpha: how much the pre-activation decides; 0 is standard dropout at the site.
        learned: whether the mask has a weight matrix of its own, which is trained.
        calibrated: whether the pre-activation is standardised over the token's channels.
        elsewhere: what stands on nanoGPT's four sites: see `model.families.family.ELSEWHERE`.
        sampled: whether training samples the mask; False trains with the expectation, the control "the gate alone".
    """

    kind = "standout"
    sites = ("mlp_hidden",)
    alpha: float
    learned: bool = False
    calibrated: bool = True
    elsewhere: str = STANDARD
    sampled: bool = field(default=True, metadata={"omitted": True})
