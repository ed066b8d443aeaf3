"""Contrastive learning of embeddings: its loss, and three numbers that say how embeddings lie on the sphere.

Shapes: B pairs, n embeddings, C channels. All functions normalise the embeddings to length 1, in float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(anchors: Tensor, positives: Tensor, temperature: float, negatives: Tensor | None = None) -> Tensor:
    """Returns the mean over i of -log softmax(cos(anchor i, .) / temperature) at positive i.

    The softmax of each anchor is over the positives of the whole batch and, given them, over its hard negatives: SimCSE
    (Gao et al. 2021, equations 1 and 5).

    Args:
        anchors: (B, C).
        positives: (B, C), of which row i belongs to anchor i.
        negatives: (m, C), for any m.
    """
    others = positives if negatives is None else torch.cat([positives, negatives])
    logits = unit(anchors) @ unit(others).T / temperature  # (B, B + m)
    return F.cross_entropy(logits, torch.arange(len(anchors), device=logits.device))


def alignment(a: Tensor, b: Tensor) -> float:
    """Returns the mean squared distance of pairs that mean the same, (n, C) each, in [0, 4]: Wang & Isola 2020."""
    return float((unit(a) - unit(b)).square().sum(1).mean())


def uniformity(x: Tensor) -> float:
    """Returns log mean exp(-2 d^2) over the distances d of all pairs of `x` (n, C), in [-8, 0]: Wang & Isola 2020.

    0 where all embeddings are equal; the lower, the more evenly they fill the sphere.
    """
    return float(torch.pdist(unit(x)).square().mul(-2).exp().mean().log())


def anisotropy(x: Tensor) -> float:
    """Returns the mean cosine over all pairs of different rows of `x` (n, C): Ethayarajh 2019.

    1 where all embeddings point in one direction, about 0 where directions are random.
    """
    n, total = len(x), unit(x).sum(0)
    return float((total @ total - n) / (n * (n - 1)))


def unit(x: Tensor) -> Tensor:
    """Returns `x` (n, C) with rows of length 1, in float32; a row of zeros stays as it is."""
    return F.normalize(x.float(), dim=1)
