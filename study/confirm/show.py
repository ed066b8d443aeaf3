"""Prints a verdict: the arms, the sentence, and the paper's table."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from study.base.names import NATS, amount
from study.engine.display import describe

Summary = Mapping[str, Any] | None


def show_verdict(verdict: Mapping[str, Any], console: Console) -> None:
    """Prints the content of verdict.json."""
    console.print(_arms(verdict))
    for name, other in verdict["same_as"].items():
        _print(console, f"{name} drops the same as {other}")
    for warning in verdict["warnings"]:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
    if steered := [arm["arm"] for arm in verdict["arms"] if arm["schedule"]["kind"] == "val_loss"]:
        _print(
            console, f"the validation loss that judges {', '.join(steered)} also steers the rate: compare the test loss"
        )
    if verdict["published"]:
        values = ", ".join(f"{value} ({who})" for who, value in verdict["published"].items())
        _print(console, f"published best validation losses, comparable to full_val_loss: {values}")
    if looks := verdict.get("sequential"):
        seen = ", ".join(str(look["seeds"]) for look in looks["looks"])
        _print(
            console,
            f"looks at {seen} of at most {looks['plan'][-1]} seeds; the smallest gain that matters is "
            f"{amount(looks['smallest'], verdict.get('unit', NATS))}",
        )
    console.print()
    _print(console, verdict["verdict"], style="bold")
    for entry in verdict.get("explanations", ()):  # earlier versions had none
        _print(console, f"{entry['arm']}: {entry['sentence']}")
    if verdict["paper"]["claims"]:
        console.print()
        console.print(_paper(verdict))
        _print(console, "Differences below are paired by seed, with 95 % intervals; their p-values are not adjusted.")
        for claim in verdict["paper"]["claims"]:
            _print(console, f"Claim: {claim['claim']}.", style="italic")
            _print(console, f"  Found: {claim['found']}.")
            _print(console, f"  Mechanism: {claim['mechanism']}.")


def _arms(verdict: Mapping[str, Any]) -> Table:
    table = _table(
        "arms, mean and SD over seeds; differences of best val_loss from the best constant rate, with paired t's 95 % "
        "intervals"
    )
    columns = ("arm", "schedule", "best val_loss", "at step", "final", "test", "full", "difference", "Holm p", "n")
    for column in columns:
        table.add_column(column, justify="left" if column in ("arm", "schedule") else "right")
    for arm in verdict["arms"]:
        difference = arm["difference"]
        table.add_row(
            arm["arm"],
            describe(arm),
            _mean_sd(arm["best_val_loss"], ".4f"),
            _mean(arm["best_step"], ",.0f"),
            _mean(arm["final_val_loss"], ".3f"),
            _mean(arm["test_loss"], ".3f"),
            _mean(arm["best_full_val_loss"], ".4f"),
            "baseline" if arm["arm"] == verdict["baseline"] else _difference(difference),
            "" if difference is None or difference["p_holm"] is None else f"{difference['p_holm']:.2g}",
            f"{arm['n']}" + (f" ({arm['failed']} failed)" if arm["failed"] else ""),
            style="bold" if arm["arm"] == verdict["subject"] else None,
        )
    return table


def _paper(verdict: Mapping[str, Any]) -> Table:
    table = _table('the table of "dynamic dropout" (Yan & Shao 2024): mean and SD over seeds')
    columns = {
        "final training loss": ("final_train_loss", ".3f"),
        "with dropout off": ("train_loss_dropout_off", ".3f"),
        "best validation loss": ("best_val_loss", ".4f"),
        "training time, s": ("train_seconds", ",.1f"),
        "sampling, tokens/s": ("sampling_tokens_per_second", ",.0f"),
    }
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for row in verdict["paper"]["rows"]:
        table.add_row(row["label"], *(_mean_sd(row[name], digits) for name, digits in columns.values()))
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold")


def _mean(summary: Summary, digits: str) -> str:
    return "" if summary is None else f"{summary['mean']:{digits}}"


def _mean_sd(summary: Summary, digits: str) -> str:
    if summary is None or summary["sd"] is None:
        return _mean(summary, digits)
    return f"{summary['mean']:{digits}} +- {summary['sd']:{digits}}"


def _difference(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    if difference["low"] is None:
        return f"{difference['mean']:+.4f}"
    return f"{difference['mean']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})"


def _print(console: Console, line: str, style: str | None = None) -> None:
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)
