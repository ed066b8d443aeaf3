"""The sites of a model: what stands where, for each family."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.dropout import Dropout, DropoutRate, Site
from model.families import Family
from model.levels import LEVELS
from model.masks import draw_bits, draw_kept, scaled


class Off(nn.Module):
    """A place where nothing is dropped."""

    active = False

    def forward(self, x: Tensor, *causes: Tensor) -> Tensor:
        """Returns `x`."""
        return x


class FamilySite(Site):
    """A site whose multiplier a family computes.

    A family that works in evaluation too keeps its rate in the buffer `rate_levels`, in multiples of 1 / LEVELS: saved
    weights come back as the function that they were.

    Attributes:
        n_head: the groups that the channels of the site fall into.
        weight: (channels of the site, channels of the cause) for a family that learns, else None.
    """

    rate_levels: Tensor
    draw_kept, draw_bits, scaled = staticmethod(draw_kept), staticmethod(draw_bits), staticmethod(scaled)
    linear = staticmethod(F.linear)

    def __init__(self, family: Family, rate: DropoutRate, n_head: int, weight_shape: tuple[int, int]) -> None:
        super().__init__(rate)
        self.family, self.n_head = family, n_head
        self.weight = nn.Parameter(torch.zeros(weight_shape)) if family.learned else None
        if family.works_in_eval:
            self.register_buffer("rate_levels", torch.zeros((), dtype=torch.int32))
            self.register_state_dict_pre_hook(_save_rate)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_post_hook(_load_rate)  # type: ignore[no-untyped-call]

    @property
    def active(self) -> bool:
        if self.training:
            return self.rate.drops  # torch.compile takes the property of `super()` for true, whatever it is
        if not self.family.works_in_eval:
            return False
        return torch.compiler.is_compiling() or self.rate.eager["threshold"] > 0  # one graph for evaluation, not two

    def multiplier(self, x: Tensor, *causes: Tensor) -> Tensor:
        return self.family.multiplier(self, x, *causes)

    def start_from(self, weight: Tensor) -> None:
        """Lets a family that learns start with the weights of a layer."""
        if self.weight is not None:
            self.weight.data.copy_(weight)

    @staticmethod
    def standardised(z: Tensor, std: float) -> Tensor:
        """Returns `z` with mean 0 and a standard deviation of `std` over the channels of each token, in float32."""
        z = z.float()
        return F.layer_norm(z, z.shape[-1:], weight=z.new_full(z.shape[-1:], std), eps=1e-8)


def _save_rate(site: FamilySite, prefix: str, keep_vars: bool) -> None:
    site.rate_levels.fill_(site.rate.eager["threshold"])


def _load_rate(site: FamilySite, keys: Any) -> None:
    site.rate.set(int(site.rate_levels) / LEVELS)


def make_site(
    family: Family, name: str, rate: DropoutRate, n_head: int = 1, weight_shape: tuple[int, int] = (0, 0)
) -> nn.Module:
    """Returns what stands at the place `name` of a block: the family's own site, standard dropout, or nothing."""
    if name in family.places:
        return FamilySite(family, rate, n_head, weight_shape)
    if name in family.standard_sites:
        return Dropout(rate)
    return Off()
