"""Every family and its variants, and the GPT and the single site that have one: what the tests of families share."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model import families
from model.dropout import DropoutRate, set_dropout_rate
from model.families import SITES
from model.gpt import GPT, GPTConfig
from model.levels import LEVELS
from model.sites import FamilySite

SIGMAS = 6
"""One in 500 million standard normals is farther out; the seeds are fixed on top."""
TINY = GPTConfig(vocab_size=13, block_size=8, n_layer=2, n_head=2, n_embd=16)
OUTPUTS = ("attention_output", "mlp_output")


def standard(*sites: str) -> dict[str, Any]:
    return {"kind": "standard", "sites": list(sites)}


def standout(**parameters: Any) -> dict[str, Any]:
    return {"kind": "standout", "alpha": 1.0, "elsewhere": "none"} | parameters


def blocks(prefix: str, block: int = 4, elsewhere: str = "none") -> dict[str, Any]:
    return {"kind": f"{prefix}dropblock", "block": block, "elsewhere": elsewhere}


def mix(drop: float = 0.5, over_time: bool = True, elsewhere: str = "none") -> dict[str, Any]:
    return {"kind": "mix", "drop": drop, "over_time": over_time, "elsewhere": elsewhere}


VARIANTS: dict[str, dict[str, Any]] = {
    "standard": {"kind": "standard"},
    "standard everywhere": standard(*SITES),
    "standout": standout(),
    "standout beside standard": standout(elsewhere="standard"),
    "standout raw": standout(calibrated=False),
    "standout learned": standout(learned=True),
    "standout learned raw": standout(learned=True, calibrated=False, elsewhere="standard"),
    "standout unsampled": standout(sampled=False),
    "standout learned unsampled": standout(learned=True, sampled=False),
    "dropblock": blocks(""),
    "dropblock beside standard": blocks("", elsewhere="standard"),
    "batchdropblock": blocks("batch"),
    "probdropblock": blocks("prob"),
    "mix": mix(),
    "mix by element": mix(over_time=False),
    "mix beside standard": mix(elsewhere="standard"),
    "path": {"kind": "path"},
}
every_family = pytest.mark.parametrize("family", VARIANTS.values(), ids=VARIANTS)
OTHERS = {name: family for name, family in VARIANTS.items() if family["kind"] != "standard"}
every_other_family = pytest.mark.parametrize("family", OTHERS.values(), ids=OTHERS)
"""All but standard dropout, of which test_dropout has the same tests."""


def gpt(
    family: dict[str, Any], rate: float = 0.3, *, train: bool = True, config: GPTConfig = TINY, seed: int = 1
) -> GPT:
    """Returns a GPT whose matrices are ten times the initial ones, so that its attention is far from even."""
    torch.manual_seed(seed)
    model = GPT(config, families.from_dict(family)).train(train)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter *= 10
    set_dropout_rate(model, rate)
    return model


def tokens(B: int = 3, T: int = TINY.block_size) -> Tensor:
    return torch.randint(TINY.vocab_size, (B, T), generator=torch.Generator().manual_seed(2))


def seeded(model: nn.Module, *inputs: Tensor, seed: int = 3) -> Any:
    torch.manual_seed(seed)
    return model(*inputs)


def gradients(model: GPT, seed: int = 3) -> dict[str, Tensor]:
    model.zero_grad()
    seeded(model, tokens(), tokens().flip(1), seed=seed)[1].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def site(family: dict[str, Any], rate: float, n_head: int = 4, weight: Tensor | None = None) -> FamilySite:
    made = families.from_dict(family)
    owner = DropoutRate(made.derived)
    owner.set(rate)
    result = FamilySite(made, owner, n_head, (0, 0) if weight is None else (weight.shape[0], weight.shape[1]))
    if weight is not None:
        result.start_from(weight)
    return result


def quantised(rate: float) -> float:
    return round(rate * LEVELS) / LEVELS


# --- what holds for every family ---
