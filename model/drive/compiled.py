"""Sites of a compiled model: they read their rates from tensors, so that a rate that changes compiles once."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from model.drive.attention import NAME, AttentionDropout, calls_interface, eager_attention, register, site_in_attention
from model.drive.code_reads import reads
from model.drive.sites import OwnerSite, Site, ValueSite
from model.dropout import Dropout, DropoutRate

IMPLEMENTATION = "_attn_implementation_internal"
"""Where a Hugging Face config keeps its attention implementation; its public name also sets that of other configs."""


class DrivenDropout(Dropout):
    """Stands in for an nn.Dropout; `p` is the rate that the user gave it."""

    def __init__(self, rate: DropoutRate, p: float) -> None:
        super().__init__(rate)
        self.p = p


class Replacement:
    """Sites of a model that read their rates from tensors, until `restore`.

    An nn.Dropout becomes a module of this project. Attention of Hugging Face becomes its model's own eager attention,
    with a module of this project as its dropout. Both only where the model then still computes the same.

    Attributes:
        sites: the sites that read tensors.
        left: the sites that could not be replaced; the compiler takes their rates for constants.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site]) -> None:
        self.sites: list[Site] = []
        self.left: list[Site] = []
        self._model = model
        self._undo: list[Callable[[], None]] = []
        self._owners: dict[tuple[int, int, torch.device], DropoutRate] = {}
        self._parents: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
        for parent in model.modules():
            for name, child in parent._modules.items():
                if child is not None:
                    self._parents.setdefault(child, []).append((parent, name))
        values = [site for site in sites if isinstance(site, ValueSite)]
        in_attention = self._replace_attention(values)
        for site in sites:
            if isinstance(site, OwnerSite):
                self.sites.append(site)
            elif isinstance(site, ValueSite) and site.name not in in_attention:
                if self._is_replaceable(site.holder):
                    self._replace_module(site)
                else:
                    self.left.append(site)

    def restore(self) -> None:
        """Puts back the user's modules and attention."""
        while self._undo:
            self._undo.pop()()

    def _owner(self, site: Site, near: nn.Module) -> DropoutRate:
        """Returns the owner of a site's rate, one a block and device, and adds the site that it drives."""
        devices = [tensor.device for module in (near, self._model) for tensor in module.parameters()]
        key = (site.layer, site.n_layer, devices[0] if devices else torch.device("cpu"))
        owner = self._owners.setdefault(key, DropoutRate().to(key[2]))
        owner.set(site.rate)
        self.sites.append(OwnerSite(name=site.name, layer=site.layer, n_layer=site.n_layer, owner=owner))
        return owner

    def _is_replaceable(self, module: nn.Module) -> bool:
        """Whether a module is an unchanged nn.Dropout that its parents call, and whose `p` none of them reads."""
        return (
            type(module) is nn.Dropout
            and module in self._parents
            and "forward" not in vars(module)
            and not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
            and all("p" not in reads(type(parent), name) for parent, name in self._parents[module])
        )

    def _replace_module(self, site: ValueSite) -> None:
        module: nn.Module = site.holder
        parents = self._parents[module]
        stand_in = DrivenDropout(self._owner(site, parents[0][0]), site.rate).train(module.training)

        def put_back() -> None:
            module.train(stand_in.training)
            for parent, name in parents:
                parent._modules[name] = module

        for parent, name in parents:
            parent._modules[name] = stand_in
        self._undo.append(put_back)

    def _replace_attention(self, sites: Sequence[ValueSite]) -> set[str]:
        """Replaces Hugging Face's attention; returns the names of the sites that are in it.

        All modules under one config share its attention implementation: they are replaced together or not at all.
        """
        by_config: dict[int, list[nn.Module]] = {}
        for module in self._model.modules():
            if hasattr(config := getattr(module, "config", None), IMPLEMENTATION) and calls_interface(module):
                by_config.setdefault(id(config), []).append(module)
        replaced: set[str] = set()
        for modules in by_config.values():
            eager = [f for module in modules if (f := eager_attention(type(module))) is not None]
            inside = [site_in_attention(module, sites) for module in modules]
            if len(eager) < len(modules) or not any(inside):
                continue
            register()
            self._set_implementation(modules[0].config)
            for module, function, site in zip(modules, eager, inside, strict=True):
                owner = self._owner(site, module) if site is not None else None
                module.add_module(NAME, AttentionDropout(function, owner).train(module.training))
                self._undo.append(partial(delattr, module, NAME))
                replaced |= {site.name} if site is not None else set()
        return replaced

    def _set_implementation(self, config: Any) -> None:
        self._undo.append(partial(setattr, config, IMPLEMENTATION, getattr(config, IMPLEMENTATION)))
        setattr(config, IMPLEMENTATION, NAME)
