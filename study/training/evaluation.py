"""Evaluation over fixed windows of a split: the same number for the same weights, every time."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from model.gpt import IGNORED
from study.training.config import TrainingConfig

Windows = tuple[Tensor, Tensor]
"""Inputs and targets of an evaluation, (n, T) each."""


@torch.no_grad()
def mean_loss(loss_of: Callable[[Tensor, Tensor], Tensor], windows: Windows, batch_size: int) -> float:
    """Returns the mean over all targets that count, given a function of inputs and targets that does so for a batch."""
    total, count = torch.zeros(2, dtype=torch.float64, device=windows[0].device)
    for x, y in zip(*(torch.split(t, batch_size) for t in windows), strict=True):
        n = (y != IGNORED).sum()
        total += loss_of(x.long(), y.long()).double() * n
        count += n
    return float(total / count)


def windows(tokens: np.ndarray, config: TrainingConfig, device: torch.device) -> Windows:
    """Cuts a split into contexts, all of it or an even share; returns inputs and targets, (n, T) each.

    The last context is filled up with targets that do not count, and so is the last batch, so that every evaluation
    batch has the training batch's shape and nothing is compiled twice.
    """
    T, B = config.block_size, config.batch_size
    total = math.ceil((len(tokens) - 1) / T)
    wanted = max(1, round(total * config.val_share))
    chosen = np.arange(wanted) * total // wanted
    rows = math.ceil(wanted / B) * B
    x = np.zeros((rows, T), dtype=np.int32)
    y = np.full((rows, T), IGNORED, dtype=np.int32)
    for row, window in enumerate(chosen):
        part = tokens[window * T : window * T + T + 1].astype(np.int32)
        x[row, : len(part) - 1] = part[:-1]
        y[row, : len(part) - 1] = part[1:]
    return torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
