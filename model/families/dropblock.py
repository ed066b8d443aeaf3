"""Structured dropout: runs of neighbouring channels are dropped together."""

from dataclasses import dataclass

from model.families.family import STANDARD, Family


class Structured(Family):
    """Blocks of channels at the outputs of attention and MLP (Zhao et al. 2023, arXiv 2210.02570)."""

    sites = ("attention_output", "mlp_output")


@dataclass(frozen=True)
class DropBlock(Structured):
    """Blocks of `block` channels, drawn for each head of each token.

    Attributes:
        block: channels that are dropped together; at most the channels of a head.
        elsewhere: what stands on nanoGPT's other sites: see `model.families.family.ELSEWHERE`.
    """

    kind = "dropblock"
    block: int
    elsewhere: str = STANDARD


@dataclass(frozen=True)
class BatchDropBlock(Structured):
    """As `dropblock`, with the same blocks in all heads of a token."""

    kind = "batchdropblock"
    block: int
    elsewhere: str = STANDARD


@dataclass(frozen=True)
class ProbDropBlock(Structured):
    """As `dropblock`, where channels of large magnitude begin a block more often."""

    kind = "probdropblock"
    block: int
    elsewhere: str = STANDARD
