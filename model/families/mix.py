"""Mixing: a feature is blended with its dropped self."""

from dataclasses import dataclass

from model.families.family import STANDARD, Family


@dataclass(frozen=True)
class Mix(Family):
    """The MLP's pre-activations are mixed with their dropped selves (Xu et al., CVPR 2025, arXiv 2506.12738).

    Attributes:
        drop: the rate of the dropout that is mixed in.
        over_time: whether all tokens of a sequence share one mask.
        elsewhere: what stands on nanoGPT's four sites: see `model.families.family.ELSEWHERE`.
    """

    kind = "mix"
    sites = ("before_gelu",)
    drop: float
    over_time: bool = True
    elsewhere: str = STANDARD
