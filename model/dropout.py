"""Dropout whose rate changes while training, without recompiling, and the setters of that rate."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model.checks import check_rate, short
from model.levels import LEVELS as LEVELS
from model.levels import threshold_of
from model.masks import draw_kept, reads_tensors, scaled

Derive = Callable[[int], Mapping[str, float]]
"""The numbers that a family computes from a rate, given in multiples of 1 / LEVELS."""


def _nothing(threshold: int) -> Mapping[str, float]:
    return {}


class DropoutRate(nn.Module):
    """The owner of a rate, shared by all dropout sites of a block; the embedding's site belongs to the first block.

    Compiled graphs read `threshold`, `scale` and the numbers that a family derives from the rate from 0-d tensors,
    since a Python number in them recompiles at every change. `active` is one, and the same in all owners of a model, so
    that a training step is compiled at most twice: with dropout and without.
    """

    threshold: Tensor
    scale: Tensor

    def __init__(self, derive: Derive = _nothing) -> None:
        super().__init__()
        self._derive = derive
        self.active = False
        """Whether any block of the model drops anything."""
        self.eager = self.settings(0.0)
        """The numbers for eager code, which would wait for tensors."""
        self.names = tuple(self.eager)
        for name, value in self.eager.items():
            dtype = torch.int32 if isinstance(value, int) else torch.float32
            self.register_buffer(name, torch.tensor(value, dtype=dtype), persistent=False)

    @property
    def value(self) -> float:
        """The rate, a multiple of 1 / LEVELS."""
        return self.eager["threshold"] / LEVELS

    def settings(self, rate: float) -> dict[str, float]:
        """Returns the numbers of a rate: its threshold and scale, and those that the family derives."""
        threshold = threshold_of(rate)
        return {"threshold": threshold, "scale": LEVELS / (LEVELS - threshold), **self._derive(threshold)}

    def set(self, rate: float, active: bool | None = None) -> None:
        """Sets the rate, rounded to a multiple of 1 / LEVELS, and whether any block has one above 0."""
        self.eager = self.settings(rate)
        self.active = self.eager["threshold"] > 0 if active is None else active
        for name, value in self.eager.items():
            self.get_buffer(name).fill_(value)

    @property
    def drops(self) -> bool:
        """Whether a site in training drops anything now.

        Where numbers are tensors, a block at rate 0 multiplies by ones if another block drops: a graph for each set of
        active blocks would be one too many.
        """
        return self.active and (reads_tensors(self.threshold) or self.eager["threshold"] > 0)

    def numbers(self, x: Tensor) -> Mapping[str, Any]:
        """Returns the numbers for code that works on `x`: 0-d tensors, or Python numbers in eager code on a CPU."""
        return {name: getattr(self, name) for name in self.names} if reads_tensors(x) else self.eager


class Site(nn.Module):
    """A place in the model where values are multiplied by random ones; the identity in eval and at rate 0."""

    def __init__(self, rate: DropoutRate) -> None:
        super().__init__()
        self.rate = rate

    @property
    def active(self) -> bool:
        """Whether `forward` changes anything now."""
        return self.training and self.rate.drops

    def multiplier(self, x: Tensor, *causes: Tensor) -> Tensor:
        """Returns what `x` is multiplied with, of a shape that broadcasts to that of `x`."""
        raise NotImplementedError

    def forward(self, x: Tensor, *causes: Tensor) -> Tensor:
        """Returns `x`, dropped. `causes` are the tensors that `x` was made from, the last one first."""
        if not self.active:
            return x
        return (x * self.multiplier(x, *causes)).to(x.dtype)


class Dropout(Site):
    """Zeroes each element with the rate and scales the others by 1 / (1 - rate): standard dropout.

    Masks come from torch's default generator of the device.
    """

    def multiplier(self, x: Tensor, *causes: Tensor) -> Tensor:
        n = self.rate.numbers(x)
        return scaled(draw_kept(x.shape, n["threshold"], x), n["scale"], x)


def rate_owners(model: nn.Module) -> list[DropoutRate]:
    """Returns the owners of the rates of a model's blocks, in the order of the blocks.

    Raises:
        ValueError: if the model has no dropout site.
    """
    owners = [module for module in model.modules() if isinstance(module, DropoutRate)]
    if not owners:
        raise ValueError(f"{type(model).__name__} has no dropout site of this project (model.dropout.Dropout)")
    return owners


def set_rates(owners: Sequence[DropoutRate], rates: Sequence[float]) -> None:
    """Sets the rate of each owner, and in all of them whether any is above 0."""
    active = any(threshold_of(rate) > 0 for rate in rates)
    for owner, rate in zip(owners, rates, strict=True):
        owner.set(rate, active)


def set_dropout_rate(model: nn.Module, rate: float) -> None:
    """Sets the drop probability of every dropout site of `model`, compiled or not, without recompiling.

    Raises:
        ValueError: if `rate` is not a number in [0, 1), or the model has no dropout site.
    """
    rate = check_rate("dropout rate", rate)
    owners = rate_owners(model)
    set_rates(owners, [rate] * len(owners))


def set_dropout_rates(model: nn.Module, rates: Sequence[float]) -> None:
    """Sets the drop probability of each block of `model`, compiled or not, without recompiling.

    The first one is also that of the embedding.

    Raises:
        ValueError: if a rate is not a number in [0, 1), or there is not one for each block.
    """
    owners = rate_owners(model)
    checked = [check_rate("dropout rate", rate) for rate in rates]
    if len(checked) != len(owners):
        raise ValueError(f"dropout rates must be {len(owners)}, one a block, got {short(list(rates))}")
    set_rates(owners, checked)
