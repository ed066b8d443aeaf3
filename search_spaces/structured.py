"""The space `structured`: Zhao et al.'s dropped blocks (2023), with their rising schedule and without it."""

from typing import Any

import optuna

from search_spaces.families import SITES, suggest_block, suggest_shape

FAMILIES = ("standard", "dropblock", "batchdropblock", "probdropblock")
EQUAL_SHARES = ("family", FAMILIES)
_BLOCK = {"block": 4, "elsewhere": "none"}
KNOWN_GOOD: dict[str, dict[str, Any]] = {
    # The paper's own: blocks of 4, no other dropout, 0 to 0.1 as for RoBERTa. Then the rate alone, without a schedule.
    # Standard dropout at the same sites is the control.
    f"{family} 0.1, {shape}": {"family": family, "shape": shape, "rate": 0.1}
    | ({"sites": "outputs"} if family == "standard" else _BLOCK)
    for shape in ("rising", "constant")
    for family in FAMILIES
}


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Returns a regularizer that drops blocks, or single elements at the same sites or at nanoGPT's four.

    The rate is the share that is dropped, up to 0.5 as in all spaces. The paper's own rates are those of the seeds of
    blocks: its 0.3, at which RoBERTa collapsed, drops 0.59 of the elements.
    """
    family = trial.suggest_categorical("family", FAMILIES)
    # The paper's schedule rises from 0; it says that dropping blocks from the start harms.
    schedule = suggest_shape(trial, ("constant", "rising"))
    if family != "standard":
        return {"schedule": schedule, "family": {"kind": family} | suggest_block(trial)}
    sites = SITES[trial.suggest_categorical("sites", ("four", "outputs"))]
    return {"schedule": schedule} | ({} if sites is None else {"family": {"kind": family, "sites": list(sites)}})
