"""The space `curriculum`: curriculum dropout, and the controls of its paper (Morerio et al. 2017)."""

from typing import Any

import optuna

KINDS = ("curriculum", "anti_curriculum", "switch", "constant")
EQUAL_SHARES = ("schedule_kind", KINDS)
_SHAPES: dict[str, dict[str, Any]] = {
    "curriculum": {"decay": 10.0},  # the paper's gamma of 10 / T
    "anti_curriculum": {"decay": 10.0},
    "switch": {"cutoff": 0.1},  # 20 of the paper's 200 epochs
    "constant": {},
}
KNOWN_GOOD: dict[str, dict[str, Any]] = {
    # nanoGPT's rate, then the rate of the paper's fully connected layers.
    f"{kind} {rate:g}": {"schedule_kind": kind, "rate": rate} | _SHAPES[kind]
    for rate in (0.2, 0.5)
    for kind in KINDS
}


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Returns the schedule of curriculum dropout, its reverse, a rate switched on late, or a constant rate."""
    kind = trial.suggest_categorical("schedule_kind", KINDS)
    # Up to the largest rate of all spaces. Below 0.05 all four are hardly different from no dropout.
    rate = trial.suggest_float("rate", 0.05, 0.5, step=0.01)
    if kind == "constant":
        return {"kind": "constant", "rate": rate}
    if kind == "switch":
        # The paper switches after 5 to 100 of 150 to 200 epochs.
        return {"kind": "late", "peak_rate": rate, "cutoff": trial.suggest_float("cutoff", 0.05, 0.6, step=0.05)}
    # At 10 the rate has moved after a third of the training, at 30 after a tenth; at 3 it still moves at the end.
    decay = trial.suggest_float("decay", 3.0, 30.0, log=True)
    ends = (0.0, rate) if kind == "curriculum" else (rate, 0.0)
    return {"kind": "exponential", "initial_rate": ends[0], "final_rate": ends[1], "decay": decay}
