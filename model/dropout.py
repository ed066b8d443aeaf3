"""Dropout whose rate changes while training, without recompiling, and the one setter of that rate."""

import numpy as np
import torch
from torch import Tensor, nn

from model.checks import check_rate

LEVELS = 2**16
"""Rates are multiples of 1 / LEVELS: an element is dropped if its 16 random bits are below a threshold."""


class DropoutRate(nn.Module):
    """The one owner of a model's dropout rate, shared by all its dropout sites.

    Compiled graphs read the rate from 0-d tensors, since a Python number in them recompiles at every change. `active`
    is one, so that a training step is compiled at most twice: with dropout and without.
    """

    threshold: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.active = False
        self.eager = (0, 1.0)
        """Threshold and scale for eager code, which would wait for tensors."""
        self.register_buffer("threshold", torch.zeros((), dtype=torch.int32), persistent=False)
        self.register_buffer("scale", torch.ones(()), persistent=False)

    @staticmethod
    def levels(rate: float) -> tuple[int, float]:
        """Returns a rate's threshold and scale; under half of 1 / LEVELS it is 0, and dropout is off."""
        threshold = min(round(rate * LEVELS), LEVELS - 1)
        return threshold, LEVELS / (LEVELS - threshold)

    def set(self, rate: float) -> None:
        """Sets the rate, rounded to a multiple of 1 / LEVELS."""
        threshold, scale = self.levels(rate)
        self.active = threshold > 0
        self.eager = (threshold, scale)
        self.threshold.fill_(threshold)
        self.scale.fill_(scale)


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
        if torch.compiler.is_compiling() or x.device.type != "cpu":
            mask = torch.randint(LEVELS, x.shape, dtype=torch.int32, device=x.device) >= self.rate.threshold
            return (x.float() * (mask * self.rate.scale)).to(x.dtype)  # bfloat16 would round the scale
        threshold, scale = self.rate.eager
        mask = _cpu_mask(x.shape, threshold).to(torch.promote_types(x.dtype, torch.float32)).mul_(scale)
        return (x * mask).to(x.dtype)


_SFC64 = np.random.SFC64(0)


def _cpu_mask(shape: torch.Size, threshold: int) -> Tensor:
    """Returns bytes that are 0 with probability threshold / LEVELS, and else 1.

    Eager on a CPU the random bits are what costs, and torch draws them slowly: 1.5 ns for 16 of them, where numpy's
    SFC64 takes 0.3. Its state is three words of torch's generator and a counter, which are all that it needs: making
    a generator for each mask takes as long as a small mask.
    """
    state = torch.empty(4, dtype=torch.int64).random_(-(2**63), None).numpy().view(np.uint64)
    state[3] = 1
    _SFC64.state = {"bit_generator": "SFC64", "state": {"state": state}, "has_uint32": 0, "uinteger": 0}
    words = _SFC64.random_raw((shape.numel() + 3) // 4)
    kept = words.view(np.uint16)[: shape.numel()] >= threshold
    return torch.from_numpy(kept.view(np.uint8)).view(shape)


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
