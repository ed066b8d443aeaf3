"""The optimizer of a GPT's weights."""

from typing import Any

import torch
from torch import nn

from study.training.config import TrainingConfig


def adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Returns AdamW, with weight decay on matrices alone, as nanoGPT has it."""
    return torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=True,
    )


def with_plain_rates(optimizer: dict[str, Any]) -> dict[str, Any]:
    """Returns an optimizer's state as it is without CUDA graphs, which keep learning rates on the device."""
    for group in optimizer["param_groups"]:
        group |= {"lr": float(group["lr"]), "capturable": False}
    return optimizer
