"""The places in a model from which dropout rates are read."""

import re
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from model.drive.code_reads import forget, reads
from model.dropout import DropoutRate, set_rates
from model.levels import threshold_of

DROPOUTS = nn.modules.dropout._DropoutNd
"""The base of nn.Dropout, its 1, 2 and 3 dimensional ones, and the alpha dropouts."""
RATE_NAME = re.compile("drop", re.IGNORECASE)
OTHER_NAME = re.compile(
    r"layer_?drop|drop_?path|path_?drop|drop_?connect|drop_?block|stochastic_?depth|(token|word)_?drop|dropout_positions"
    r"|router|quantizer|scale",
    re.IGNORECASE,
)
"""Names with "drop" that are no dropout rate: whole layers, branches, tokens or positions are dropped by them."""
SHORT_NAMES = ("p", "prob", "rate", "probability")
"""Names of a rate in a class whose own name has "drop"."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A place from which a rate is read."""

    name: str
    """Its path in the model, such as `h.0.attn.attn_dropout.p`."""
    layer: int
    """The block that it belongs to."""
    n_layer: int
    """The number of blocks beside that one, itself included."""

    @property
    def rate(self) -> float:
        """The rate that is read here now."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ValueSite(Site):
    """A number among the attributes of a module or a config."""

    holder: Any
    """The module or the config."""
    values: MutableMapping[str, Any]
    """The holder's attributes as a mapping, so that those of a frozen config can be written."""
    key: str

    @property
    def rate(self) -> float:
        return float(
            self.values[self.key] if self.key in self.values else getattr(self.holder, self.key)
        )  # its class's

    @property
    def in_config(self) -> bool:
        """Whether it is an entry of a config, which may be saved with the model."""
        return not isinstance(self.holder, nn.Module)


@dataclass(frozen=True, kw_only=True)
class OwnerSite(Site):
    """An owner of the rate of this project's own dropout modules."""

    owner: DropoutRate

    @property
    def rate(self) -> float:
        return self.owner.value


def set_sites(sites: Sequence[Site], rates: Sequence[float]) -> None:
    """Writes the rate of each site."""
    owners: dict[DropoutRate, float] = {}
    for site, rate in zip(sites, rates, strict=True):
        if isinstance(site, ValueSite):
            site.values[site.key] = rate
        elif isinstance(site, OwnerSite):
            owners[site.owner] = rate
    if any(owner.eager["threshold"] != threshold_of(rate) for owner, rate in owners.items()):
        set_rates(list(owners), list(owners.values()))  # only if needed: on a GPU every number is a kernel


def find_sites(model: nn.Module) -> list[Site]:
    """Returns the sites of a model of any library, in the order of its modules.

    The first number in a site's path is its layer. A site without a number belongs to the first block if no block
    comes before it in the model, as an embedding's, and else to the last one, as a classifier's.
    """
    forget()
    found = list(_find(model))
    places = [_place(name) for name, *_ in found]
    counts = {path: _count(model, path) for path, _ in places if path is not None}
    deepest = max(counts.values(), default=1)
    sites: list[Site] = []
    without_number = 0
    for (name, holder, values, key), (path, number) in zip(found, places, strict=True):
        without_number = deepest - 1 if path is not None else without_number
        layer, n_layer = (without_number, deepest) if path is None else (number, counts[path])
        if isinstance(holder, DropoutRate):
            sites.append(OwnerSite(name=name, layer=layer, n_layer=n_layer, owner=holder))
        else:
            sites.append(ValueSite(name=name, layer=layer, n_layer=n_layer, holder=holder, values=values, key=key))
    return sites


def _place(name: str) -> tuple[str | None, int]:
    """Returns the path before the first number and that number; None if there is none."""
    path = name.split(".")
    for depth, part in enumerate(path):
        if part.isdecimal():
            return ".".join(path[:depth]), int(part)
    return None, 0


def _count(model: nn.Module, path: str) -> int:
    return 1 + max(int(name) for name, _ in model.get_submodule(path).named_children() if name.isdecimal())


def _find(model: nn.Module) -> Iterator[tuple[str, Any, MutableMapping[str, Any], str]]:
    configs: set[tuple[int, str]] = set()
    for path, module in model.named_modules():
        dot = f"{path}." if path else ""
        if isinstance(module, DropoutRate):
            yield path, module, vars(module), ""
            continue
        for key in _rate_names(module):
            yield f"{dot}{key}", module, vars(module), key
        for attribute, config, values in _configs(module):
            rates = [key for key, value in values.items() if _is_rate(key, value) and (id(config), key) not in configs]
            for key in rates:
                if key in reads(type(module), attribute.lstrip("_")):
                    configs.add((id(config), key))
                    yield f"{dot}{attribute}.{key}", config, values, key


def _rate_names(module: nn.Module) -> Iterator[str]:
    """Yields the attributes of a module that are rates, those of its class included."""
    if isinstance(module, DROPOUTS):
        yield "p"
        return
    kind = type(module)
    if OTHER_NAME.search(kind.__name__) or (isinstance(module, nn.RNNBase) and module.num_layers == 1):
        return
    names = dict.fromkeys(name for cls in reversed(kind.__mro__) for name in vars(cls)) | dict.fromkeys(vars(module))
    for name in names:
        value = vars(module).get(name, getattr(kind, name, None))
        if _is_rate(name, value) or (RATE_NAME.search(kind.__name__) and name in SHORT_NAMES and _is_share(value)):
            yield name


def _is_share(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value < 1


def _is_rate(name: Any, value: Any) -> bool:
    return isinstance(name, str) and bool(RATE_NAME.search(name)) and not OTHER_NAME.search(name) and _is_share(value)


def _configs(module: nn.Module) -> Iterator[tuple[str, Any, MutableMapping[str, Any]]]:
    """Yields what a module holds beside modules and tensors that has attributes or entries of its own."""
    for name, value in list(vars(module).items()):
        if isinstance(value, MutableMapping):
            yield name, value, value
        elif hasattr(value, "__dict__") and not isinstance(value, nn.Module | torch.Tensor) and not callable(value):
            yield name, value, vars(value)
