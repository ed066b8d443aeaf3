"""Attention of Hugging Face models with dropout that reads its rate from a tensor."""

import sys
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

from torch import Tensor, nn

from model.drive.code_reads import loaded_names, mentions, reads
from model.drive.sites import ValueSite
from model.dropout import Dropout, DropoutRate

NAME = "dynamic_dropout"
"""The attention implementation's name at Hugging Face, and the name of the module that it adds to an attention."""
Attention = Callable[..., tuple[Tensor, Tensor]]


class AttentionDropout(nn.Module):
    """What this project adds to an attention module: its model's own eager attention, and dropout between its halves.

    Without a rate it is the eager attention.
    """

    def __init__(self, eager: Attention, rate: DropoutRate | None) -> None:
        super().__init__()
        self.eager = eager
        self.dropout = Dropout(rate) if rate is not None else None

    def forward(self, module: nn.Module, value: Tensor, *args: Any, dropout: float, **kwargs: Any) -> Any:
        """Returns the output (B, T, nh, hs) and the probabilities (B, nh, T, S); `value` is (B, kv heads, S, hs)."""
        if self.dropout is None:
            return self.eager(module, *args, dropout=dropout, **kwargs)
        output, probabilities = self.eager(module, *args, dropout=0.0, **kwargs)
        if not self.dropout.active:
            return output, probabilities
        probabilities = self.dropout(probabilities)  # a compiler leaves the first output away, which nothing reads
        value = value.repeat_interleave(probabilities.shape[1] // value.shape[1], dim=1)
        return (probabilities @ value).transpose(1, 2).contiguous(), probabilities


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, dropout: float = 0.0, **kwargs: Any
) -> Any:
    """The attention function that Hugging Face calls: see `AttentionDropout`."""
    return getattr(module, NAME)(module, value, query, key, value, *args, dropout=dropout, **kwargs)


def register() -> None:
    """Makes `attend` known to Hugging Face, with the mask that eager attention takes."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)


def calls_interface(module: nn.Module) -> bool:
    """Whether a module calls Hugging Face's attention interface."""
    return "ALL_ATTENTION_FUNCTIONS" in mentions(type(module))


def eager_attention(kind: type[nn.Module]) -> FunctionType | None:
    """Returns the eager attention that a class hands to the interface, or None if dropout in it cannot be replaced.

    It must end with dropout, then the product with the values, and nothing that changes that product.
    """
    names = mentions(kind)
    for cls in kind.__mro__:
        file = vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}
        found = [file[name] for name in names if "eager" in name and isinstance(file.get(name), FunctionType)]
        if found:
            return found[0] if len(found) == 1 and _ends_with_dropout(found[0]) else None
    return None


def _ends_with_dropout(attention: FunctionType) -> bool:
    loaded = loaded_names(attention)
    if "dropout" not in loaded:
        return False
    end = loaded[len(loaded) - loaded[::-1].index("dropout") :]
    return "matmul" in end and set(end[end.index("matmul") + 1 :]) <= {"transpose", "contiguous"}


def site_in_attention(module: nn.Module, sites: Sequence[ValueSite]) -> ValueSite | None:
    """Returns the one site whose rate a module hands to the attention interface; None if that cannot be told.

    It is a number of the module's own, or the `p` of a dropout module that it does not call.
    """
    kind = type(module)
    not_called = {id(child) for name, child in module.named_children() if "p" in reads(kind, name)}
    found = [site for site in sites if site.holder is module or id(site.holder) in not_called]
    drops_itself = any("dropout" in reads(kind, owner, own=True) for owner in ("functional", "F"))
    return found[0] if len(found) == 1 and not drops_itself else None
