"""Dropout whose rate changes while training, without recompiling, and the one setter of that rate."""

import torch
from torch import Tensor, nn

from model.checks import check_rate

LEVELS = 2**16
"""Rates are multiples of 1 / LEVELS: an element is dropped if its 16 random bits are below a threshold."""


class DropoutRate(nn.Module):
    """The one owner of a model's dropout rate, shared by all its dropout sites.

    The rate is kept as 0-d tensors, since a Python number inside a compiled graph recompiles it at every change; only
    `active` is one, so that a model is compiled at most twice: with dropout and without.
    """

    threshold: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.active = False
        self.register_buffer("threshold", torch.zeros((), dtype=torch.int16), persistent=False)
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def set(self, rate: float) -> None:
        """Sets the rate, rounded to a multiple of 1 / LEVELS; under half of that it is 0, and dropout is off."""
        threshold = min(round(rate * LEVELS), LEVELS - 1)
        self.active = threshold > 0
        self.threshold.fill_(threshold - LEVELS // 2)
        self.scale.fill_(LEVELS / (LEVELS - threshold))


class Dropout(nn.Module):
    """Zeroes each element with the shared rate and scales the others by 1 / (1 - rate); off in eval and at rate 0.

    Masks come from torch's default generator of the device.
    """

    def __init__(self, rate: DropoutRate) -> None:
        super().__init__()
        self.rate = rate

    @property
    def active(self) -> bool:
        """Whether `forward` drops anything now."""
        return self.training and self.rate.active

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        mask = _random_int16(x) >= self.rate.threshold
        return x * (mask * self.rate.scale.to(x.dtype))


def set_dropout_rate(model: nn.Module, rate: float) -> None:
    """Sets the drop probability of every dropout site of `model`, compiled or not, without recompiling.

    Raises:
        ValueError: if `rate` is not a number in [0, 1), or the model has no dropout site.
    """
    rate = check_rate("dropout rate", rate)
    owners = [module for module in model.modules() if isinstance(module, DropoutRate)]
    if not owners:
        raise ValueError(f"{type(model).__name__} has no dropout site of this project (model.dropout.Dropout)")
    for owner in owners:
        owner.set(rate)


def _random_int16(x: Tensor) -> Tensor:
    """Returns 16 random bits for each element of `x`."""
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return torch.randint(-LEVELS // 2, LEVELS // 2, x.shape, dtype=torch.int16, device=x.device)  # fused
    # Eager on a CPU the generator is what costs: one call of it makes 64 bits, enough for four elements.
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.int16)[: x.numel()].view(x.shape)
