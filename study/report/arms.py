"""The figures of a confirmation: the winner's rate above the losses of all arms, and the arms' differences."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from study.base.figure_style import NARROW, colour, figure, label_ends
from study.engine.display import describe
from study.report.curves import Curve

SOLID, DASHED, DOTTED = "solid", (0, (6, 2.5)), (0, (1.5, 2))
LINE_STYLES: dict[str, tuple[str, Any]] = {  # by the beginning of the arm's name
    "top-1-reversed": ("purple", SOLID),
    "top-1": ("accent", SOLID),
    "top-2": ("accent", DASHED),
    "top-3": ("accent", DOTTED),
    "best-constant": ("orange", SOLID),
    "mean-constant": ("orange", DASHED),
    "constant": ("orange", SOLID),
    "no-dropout": ("grey", SOLID),
    "no dropout": ("grey", SOLID),
    "paper-exponential": ("teal", DASHED),
    "paper-val_loss": ("teal", DOTTED),
    "paper-linear": ("teal", SOLID),
    "exponential": ("teal", DASHED),
    "val_loss": ("teal", DOTTED),
    "linear": ("teal", SOLID),
    "winner": ("accent", SOLID),
    "control-": ("orange", DASHED),
    "gate-": ("purple", DOTTED),
    "uniform-": ("grey", DOTTED),
    **{
        f"{prefix}{family}": style
        for prefix in ("best ", "family-")
        for family, style in {
            "standard": ("orange", SOLID),
            "standout": ("purple", SOLID),
            "dropblock": ("teal", SOLID),
            "batchdropblock": ("teal", DASHED),
            "probdropblock": ("teal", DOTTED),
            "mix": ("gold", SOLID),
            "path": ("grey", SOLID),
        }.items()
    },
}
SETTLED = 0.35
"""Share of the steps after which losses change little: the axis fits the losses after it."""


def _line_style(arm: str) -> tuple[str, Any]:
    return next((style for name, style in LINE_STYLES.items() if arm.startswith(name)), ("gold", SOLID))


def draw_rates_and_losses(curves: Sequence[Curve], baseline: str | None, width: float) -> Figure:
    """Draws the rate of the first curve above the losses of all curves; bands are one standard deviation over seeds."""
    narrow = width == NARROW
    lines = -(-len(curves) // 2)
    drawn = figure(width, 420 + 19 * lines if narrow else 520)
    rates, losses = drawn.subplots(2, 1, sharex=True, height_ratios=[1, 3])
    winner, steps = curves[0], max(c.steps[-1] for c in curves)
    steered = winner.regularizer["schedule"]["kind"] == "val_loss"  # the rate changes at evaluations only
    rates.plot(
        winner.steps, winner.dropout_rates, color=colour("accent"), linewidth=2.6,
        drawstyle="steps-post" if steered else "default",
    )  # fmt: skip
    rates.fill_between(
        winner.steps, winner.dropout_rates, color=colour("accent"), alpha=0.1, linewidth=0,
        step="post" if steered else None,
    )  # fmt: skip
    rates.set_ylim(0, max(0.05, *winner.dropout_rates) * 1.15)
    rates.set_ylabel("dropout rate")
    rates.set_title(describe(winner.regularizer), color=colour("accent"))
    styles = {curve.arm: ("accent", SOLID) if curve is winner else _line_style(curve.arm) for curve in curves}
    for curve in reversed(curves):
        shade, dashes = styles[curve.arm]
        strong = curve is winner or curve.arm == baseline
        band = [(v - d, v + d) for v, d in zip(curve.val_losses, curve.deviations, strict=True)]
        if any(curve.deviations):
            losses.fill_between(
                curve.steps, *zip(*band, strict=True), color=colour(shade), alpha=0.2 if strong else 0.08, linewidth=0
            )
        losses.plot(
            curve.steps, curve.val_losses, color=colour(shade), linestyle=dashes, label=curve.arm,
            linewidth=2.6 if strong else 1.4, zorder=3 if strong else 2,
        )  # fmt: skip
    _fit_axis(losses, curves, steps)
    losses.set_xlim(0, steps)
    losses.set_xlabel("step")
    losses.set_ylabel("val_loss")
    losses.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if narrow:
        handles, names = losses.get_legend_handles_labels()
        drawn.legend(handles[::-1], names[::-1], loc="outside lower left", ncols=2, fontsize=11, handlelength=1.8)
    else:
        low, high = losses.get_ylim()
        ends = [(min(c.val_losses[-1], high), c.arm, colour(styles[c.arm][0])) for c in curves]
        label_ends(losses, ends, steps, (high - low) * 0.06)
    return drawn


def _fit_axis(losses: Axes, curves: Sequence[Curve], steps: int) -> None:
    """Cuts the first fall of the losses off, which would leave no room for the differences between arms."""
    late = [
        value
        for c in curves
        for step, v, d in zip(c.steps, c.val_losses, c.deviations, strict=True)
        if step >= SETTLED * steps
        for value in (v - d, v + d)
    ] or [v for c in curves for v in c.val_losses]
    low, high = min(late), max(late)
    pad = max(high - low, 1e-3) * 0.06
    losses.set_ylim(low - pad, high + pad)


def draw_differences(arms: Sequence[Mapping[str, Any]], baseline: str, alpha: float, width: float) -> Figure:
    """Draws each arm's difference from the baseline with its interval; below 0 is better.

    Args:
        arms: the arms in verdict.json that have a difference.
        alpha: the level of the tests.
    """
    narrow = width == NARROW
    drawn = figure(width, 66 + (40 if narrow else 30) * len(arms))
    axes = drawn.subplots()
    axes.axvline(0, color=colour("muted"), linewidth=1.4)
    for row, arm in enumerate(arms):
        found = arm["difference"]
        significant = found["p_holm"] is not None and found["p_holm"] < alpha
        shade = colour("grey" if not significant else "accent" if found["mean"] < 0 else "orange")
        if found["low"] is not None:
            axes.plot([found["low"], found["high"]], [row, row], color=shade, linewidth=2.4)
        axes.plot(found["mean"], row, "o", color=shade, markersize=7)
    axes.set_yticks(range(len(arms)), [arm["arm"] for arm in arms])
    axes.tick_params(axis="y", labelcolor=colour("ink"))
    axes.grid(axis="y", visible=False)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.set_xlabel(f"best_val_loss minus that of {baseline}" if not narrow else f"best_val_loss - {baseline}")
    axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 7))
    return drawn
