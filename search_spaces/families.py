"""The space `families`: what is dropped, with one schedule and depth for all, as in the papers of each family."""

from typing import Any

import optuna

from search_spaces.constant import suggest_rate

FAMILIES = ("standard", "standout", "dropblock", "batchdropblock", "probdropblock", "mix", "path")
EQUAL_SHARES = ("family", FAMILIES)
"""TPE alone would give a family that starts badly few trials: 36, 10, 9 and 9 of 64 in a trial of four families."""
SITES: dict[str, tuple[str, ...] | None] = {
    "four": None,  # nanoGPT's own, which need no word in a file
    "outputs": ("attention_output", "mlp_output"),
    "hidden": ("mlp_hidden",),
    "five": ("embedding", "attention", "attention_output", "mlp_hidden", "mlp_output"),
}
"""The sites of standard dropout: nanoGPT's, and those of the other families. Sites matter more than families do."""


def _known(family: str, shape: str, rate: float, depth: str = "uniform", **more: Any) -> dict[str, Any]:
    return {"family": family, "shape": shape, "rate": rate, "depth": depth} | more


_ALONE, _BESIDE = {"elsewhere": "none"}, {"elsewhere": "standard"}
_PAPERS: dict[str, tuple[dict[str, Any], ...]] = {
    # nanoGPT's own rate, and none.
    "standard": (_known("standard", "constant", 0.2, sites="four"), _known("standard", "constant", 0.0, sites="four")),
    # Ba & Frey (2013): no other dropout, the pre-activation as it is. Then as an addition, which our prototype liked.
    "standout": (
        _known("standout", "constant", 0.2, alpha=0.5, learned=False, calibrated=False, **_ALONE),
        _known("standout", "constant", 0.2, alpha=1.0, learned=False, calibrated=True, **_BESIDE),
    ),
    # Zhao et al. (2023): blocks of 4, no other dropout, 0 to 0.1 (RoBERTa); without the schedule as they compare it.
    "dropblock": (
        _known("dropblock", "rising", 0.1, block=4, **_ALONE),
        _known("dropblock", "constant", 0.1, block=4, **_ALONE),
    ),
    "batchdropblock": (
        _known("batchdropblock", "rising", 0.1, block=4, **_ALONE),
        _known("batchdropblock", "constant", 0.1, block=4, **_ALONE),
    ),
    # The same paper's rates for RoBERTa and for ResNet.
    "probdropblock": (
        _known("probdropblock", "rising", 0.1, block=4, **_ALONE),
        _known("probdropblock", "rising", 0.2, block=4, **_ALONE),
    ),
    # Xu et al. (2025): lambda 0.3 and drop 0.5 have the variance of rate 0.33; with their annealing, and without.
    "mix": (
        _known("mix", "constant", 0.33, "annealed", until=0.68, drop=0.5, **_ALONE),
        _known("mix", "constant", 0.33, drop=0.5, **_ALONE),
    ),
    # Huang et al. (2016): the last block drops 0.5, so the mean over many blocks is 0.25. Fan et al. (2019) drop less.
    "path": (_known("path", "constant", 0.25, "rising"), _known("path", "constant", 0.1, "rising")),
}
KNOWN_GOOD: dict[str, dict[str, Any]] = {  # in turn, so that a study of any length tries as many of each family
    f"{family} {place}": _PAPERS[family][place - 1] for place in (1, 2) for family in FAMILIES
}


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Returns a regularizer of any family."""
    family = trial.suggest_categorical("family", FAMILIES)
    return {
        "schedule": suggest_shape(trial, ("constant", "rising", "falling")),
        "family": {"kind": family} | _suggest_parameters(trial, family),
        "depth": _suggest_depth(trial),
    }


def suggest_shape(trial: optuna.Trial, shapes: tuple[str, ...]) -> dict[str, Any]:
    """Returns a constant schedule, or a straight line that rises from 0 or falls to it.

    The families share these two parameters, so that each family learns from the trials of the others.
    """
    shape = trial.suggest_categorical("shape", shapes)
    rate = suggest_rate(trial, "rate")
    if shape == "constant":
        return {"kind": "constant", "rate": rate}
    initial_rate, final_rate = (0.0, rate) if shape == "rising" else (rate, 0.0)
    return {"kind": "linear", "initial_rate": initial_rate, "final_rate": final_rate}


def suggest_block(trial: optuna.Trial) -> dict[str, Any]:
    """Returns the parameters of a dropblock family.

    Zhao et al. try blocks of 2 to 10 and take 4; a block of 1 is standard dropout, and one of 8 is a quarter of a head
    of 32 channels.
    """
    block = trial.suggest_categorical("block", (2, 4, 8))
    return {"block": block, "elsewhere": suggest_elsewhere(trial)}


def suggest_elsewhere(trial: optuna.Trial) -> str:
    """Returns whether nanoGPT's other sites keep standard dropout; the papers have none beside their own."""
    return str(trial.suggest_categorical("elsewhere", ("none", "standard")))


def _suggest_parameters(trial: optuna.Trial, family: str) -> dict[str, Any]:
    if family == "standard":
        sites = SITES[trial.suggest_categorical("sites", tuple(SITES))]
        return {} if sites is None else {"sites": list(sites)}
    if family == "standout":
        return {
            # Below 0.25 it is standard dropout, and above 2 a gate that hardly depends on chance.
            "alpha": trial.suggest_float("alpha", 0.25, 2.0, log=True),
            # Learned is the "adaptive dropout" of 2-Tier SimCSE, where its parameters overfitted.
            "learned": trial.suggest_categorical("learned", (False, True)),
            # The paper's form drops more than the rate: GELU's inputs are mostly negative.
            "calibrated": trial.suggest_categorical("calibrated", (False, True)),
            "elsewhere": suggest_elsewhere(trial),
        }
    if family == "mix":
        # The paper's 0.5 and its predecessors' 0.7. A mix cannot be noisier than its drop: 0.5 is the largest rate.
        drop = trial.suggest_categorical("drop", (0.5, 0.7))
        # Whole channels over time, as the paper's Dropout2d; by element it was no better (2.453 and 2.447, n = 2).
        return {"drop": drop, "over_time": True, "elsewhere": suggest_elsewhere(trial)}
    return {} if family == "path" else suggest_block(trial)


def _suggest_depth(trial: optuna.Trial) -> dict[str, Any]:
    depth = trial.suggest_categorical("depth", ("uniform", "rising", "falling", "annealed"))
    if depth != "annealed":
        return {"kind": depth}
    # Xu et al. end at 0.68 of the training; before 0.4 the model would overfit as without dropout, and 1 is the end.
    return {"kind": depth, "until": trial.suggest_float("until", 0.4, 1.0, step=0.02)}
