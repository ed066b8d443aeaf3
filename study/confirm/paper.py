"""The table of "dynamic dropout" (Yan & Shao 2024), reproduced, and the results beside its claims."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from model.paper import PAPER
from study.confirm.arms import PAPER_PREFIX, Arm
from study.confirm.results import Row, by_seed
from study.confirm.statistics import Difference, paired_difference, summary
from study.engine.display import describe

COLUMNS = (
    "final_train_loss",
    "train_loss_dropout_off",
    "best_val_loss",
    "final_val_loss",
    "train_seconds",
    "seconds_to_baseline",
    "sampling_tokens_per_second",
)
"""The paper reports the first, third, fifth and last number; the others explain them."""
Compared = Mapping[str, Difference]


def paper_table(arms: Sequence[Arm], runs: Sequence[Row], baseline: str, same_as: Mapping[str, str]) -> dict[str, Any]:
    """Returns the rows for the fixed rate and each of the paper's schedules that was trained, and the claims.

    The fixed rate is the best constant rate: to beat a badly chosen rate shows nothing.
    """
    known = {arm.name: arm for arm in arms}
    wanted = {"fixed rate": baseline} | {name: same_as.get(PAPER_PREFIX + name, PAPER_PREFIX + name) for name in PAPER}
    shown = {label: known[name] for label, name in wanted.items() if name in known}
    rows = []
    for label, arm in shown.items():
        mine = [run for run in runs if run["arm"] == arm.name and run["outcome"] == "completed"]
        numbers = {name: summary([run[name] for run in mine]) for name in COLUMNS}
        rows.append(
            {"arm": arm.name, "label": f"{label} ({describe(arm.schedule.to_dict())})"}
            | {name: asdict(value) if value else None for name, value in numbers.items()}
        )
    schedules = {label: arm.name for label, arm in shown.items() if arm.name != baseline}
    differences = {
        column: {
            label: difference
            for label, name in schedules.items()
            if (difference := paired_difference(by_seed(runs, name, column), by_seed(runs, baseline, column)))
        }
        for column in COLUMNS
    }
    return {"rows": rows, "claims": _claims(differences, shown, runs) if schedules else []}


def _claims(differences: Mapping[str, Compared], shown: Mapping[str, Arm], runs: Sequence[Row]) -> list[dict[str, str]]:
    return [
        {
            "claim": "dynamic dropout accelerates training",
            "found": f"training time against the fixed rate's: {_list(differences['train_seconds'], ' s', '.1f')}. "
            f"{_reached(shown, runs)}",
            "mechanism": "a step without dropout is cheaper, so a schedule saves time only while its rate is 0 (under "
            "half of 1/65536), which these schedules reach at their end, if at all; fewer steps to the same loss would "
            "save more time, and would show in the time to the fixed rate's best loss",
        },
        {
            "claim": "dynamic dropout lowers the final training loss",
            "found": f"with dropout on: {_list(differences['final_train_loss'])}; with dropout off: "
            f"{_list(differences['train_loss_dropout_off'])}",
            "mechanism": "a schedule that ends low has less noise in its network at the end, which lowers the loss "
            "with dropout on, whatever the model has learned; with dropout off, overfitting lowers the final training "
            "loss too: see the final validation loss",
        },
        {
            "claim": "dynamic dropout improves inference efficiency",
            "found": f"tokens sampled a second: {_list(differences['sampling_tokens_per_second'], '', '.0f')}",
            "mechanism": "none: dropout is off at inference and the models differ only in the values of their weights, "
            "so a difference is the machine's noise",
        },
        {
            "claim": "the validation-loss schedule is the best",
            "found": _val_loss_is_best(shown, runs),
            "mechanism": "it lowers the rate while the loss falls, and raises it again when the model overfits; but "
            "the validation loss that judges it also steers it: compare its test_loss",
        },
    ]


def _list(differences: Compared, unit: str = "", digits: str = ".4f") -> str:
    """Returns each schedule's difference from the fixed rate in words."""
    if not differences:
        return "not measured"
    parts = []
    for label, difference in differences.items():
        interval = ""
        if difference.low is not None and difference.high is not None:
            interval = f" ({difference.low:+{digits}} to {difference.high:+{digits}}, p = {difference.p:.2g})"
        parts.append(f"{label} {difference.mean:+{digits}}{unit}{interval}")
    return ", ".join(parts)


def _reached(shown: Mapping[str, Arm], runs: Sequence[Row]) -> str:
    """Returns how many runs reached the fixed rate's best loss, and after how many seconds."""
    parts = []
    for label, arm in shown.items():
        seconds = list(by_seed(runs, arm.name, "seconds_to_baseline").values())
        reached = summary(seconds)
        when = f" after {reached.mean:.1f} s" if reached else ""
        parts.append(f"{label} in {reached.n if reached else 0} of {len(seconds)} runs{when}")
    return f"The fixed rate's best loss was reached by {', '.join(parts)}"


def _val_loss_is_best(shown: Mapping[str, Arm], runs: Sequence[Row]) -> str:
    if "val_loss" not in shown:
        return "it was not trained"
    losses = {label: by_seed(runs, arm.name, "best_val_loss") for label, arm in shown.items()}
    means = {label: found.mean for label, values in losses.items() if (found := summary(list(values.values())))}
    if "val_loss" not in means:
        return "it has no completed run"
    ranked = sorted(means, key=lambda label: means[label])
    against = {
        label: difference
        for label in losses
        if label != "val_loss" and (difference := paired_difference(losses["val_loss"], losses[label]))
    }
    place = ranked.index("val_loss") + 1
    return f"its best validation loss is number {place} of {len(ranked)}; against {_list(against)}"
