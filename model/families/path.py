"""Stochastic depth: whole blocks are skipped."""

from dataclasses import dataclass

from model.families.family import Family


@dataclass(frozen=True)
class Path(Family):
    """A block's whole residual branch is dropped, for each sequence (Huang et al. 2016, "stochastic depth").

    Its `sites` are the two outputs that the branch adds to the stream.
    """

    kind = "path"
    sites = ("attention_output", "mlp_output")
