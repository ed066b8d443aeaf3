"""Compares the training steps of the dropout families with that of standard dropout at nanoGPT's four sites."""

from statistics import median
from typing import Any

import torch

from model.families import from_dict
from study.bench.contestants import our_step
from study.bench.steps import SMALL, Numbers, Say
from study.bench.timing import in_turn, ratio

RATE = 0.2
STANDARD = "standard"
FAMILIES: dict[str, dict[str, Any]] = {
    STANDARD: {"kind": "standard"},
    "standard_five_sites": {
        "kind": "standard",
        "sites": ["embedding", "attention", "attention_output", "mlp_hidden", "mlp_output"],
    },
    "standout": {"kind": "standout", "alpha": 1.0},
    "standout_learned": {"kind": "standout", "alpha": 1.0, "learned": True},
    "dropblock": {"kind": "dropblock", "block": 4},
    "batchdropblock": {"kind": "batchdropblock", "block": 4},
    "probdropblock": {"kind": "probdropblock", "block": 4},
    "mix": {"kind": "mix", "drop": 0.5},
    "path": {"kind": "path"},
}
"""Each one once alone and once with standard dropout elsewhere, as far as it takes `elsewhere`."""


def bench_families(say: Say, rounds: int) -> Numbers:
    """Compares them at one rate, with one and two threads; the ratios are medians over the rounds."""
    numbers: Numbers = {}
    dicts = FAMILIES | {
        f"{name}_alone": d | {"elsewhere": "none"}
        for name, d in FAMILIES.items()
        if d["kind"] not in (STANDARD, "path")
    }
    for threads in (1, 2):
        torch.set_num_threads(threads)
        seconds = in_turn({name: our_step(SMALL, RATE, family=from_dict(d)) for name, d in dicts.items()}, rounds)
        say(f"\na step of each family, {threads} thread{'s'[: threads - 1]}, median of {rounds} rounds in turn")
        for name in sorted(dicts):
            share = ratio(seconds, name, STANDARD)
            say(f"{name:<24} {median(seconds[name]) * 1e3:7.1f} ms  {share:.2f} of standard dropout at four sites")
            numbers[f"family_step_{name}_{threads}"] = share
    return numbers
