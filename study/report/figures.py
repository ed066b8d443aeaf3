"""The figures of a search: its schedules, their losses and times, and how well early losses predicted the end."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from model.schedules import ValLoss, from_dict
from study.base.figure_style import LEVELS, NARROW, colour, figure, level
from study.report.rungs import Rung
from study.report.trials import BestSoFar, Trial, pareto_front, ranked


def draw_schedules(trials: Sequence[Trial], steps: int, width: float) -> Figure:
    """Draws each trial's rate over the steps, one panel per kind; completed trials have the colour of their rank."""
    best_first = ranked(trials)
    places = {trial.number: place for place, trial in enumerate(best_first)}
    seen = [t for t in (*best_first, *trials) if t.steps]
    kinds = list(dict.fromkeys(t.kind for t in seen))
    columns = min(len(kinds), 2 if width == NARROW else 4)
    rows = math.ceil(len(kinds) / columns)
    drawn = figure(width, 46 + (170 if columns > 1 else 230) * rows + 54)
    grid = drawn.add_gridspec(rows + 1, columns, height_ratios=[1] * rows + [0.06])
    first = None
    for i, kind in enumerate(kinds):
        panel = first = drawn.add_subplot(grid[i // columns, i % columns], sharex=first, sharey=first)
        panel.set_title(kind)
        mine = [t for t in trials if t.kind == kind and t.steps]
        for trial in sorted(mine, key=lambda t: -places.get(t.number, math.inf)):
            _draw_schedule(panel, trial, places.get(trial.number), len(best_first), steps)
        panel.set_xlim(-0.02 * steps, 1.02 * steps)
        panel.set_ylim(bottom=-0.012)
        panel.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        if i + columns >= len(kinds):
            panel.set_xlabel("step")
        else:
            panel.tick_params(labelbottom=False)
        if i % columns == 0:
            panel.set_ylabel("dropout rate")
        else:
            panel.tick_params(labelleft=False)
    _draw_key(drawn.add_subplot(grid[rows, :]), best_first)
    return drawn


def _draw_schedule(panel: Axes, trial: Trial, place: int | None, completed: int, steps: int) -> None:
    schedule = from_dict(trial.schedule)
    if isinstance(schedule, ValLoss):  # only its evaluations record its rates
        x, y = np.array(trial.steps, float), np.array(trial.dropout_rates)
    else:
        x = np.linspace(0, trial.steps[-1], 101)
        y = np.array([schedule.rate(step / steps) for step in x])
    steady = "steps-post" if isinstance(schedule, ValLoss) else "default"
    if place is None:
        (line,) = panel.plot(x, y, color=colour("grey"), linewidth=0.9, linestyle=(0, (3, 2)), drawstyle=steady)
        panel.plot(x[-1], y[-1], "o", color=colour("grey"), markersize=3)
    else:
        shade = colour("accent") if place == 0 else level(place / max(1, completed - 1))
        (line,) = panel.plot(x, y, color=shade, linewidth=3.4 if place == 0 else 1.6, drawstyle=steady)
    line.set_gid(f"trial-{trial.number}")


def _draw_key(axes: Axes, best_first: Sequence[Trial]) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    if not best_first:
        return
    axes.bar(
        np.arange(LEVELS) / LEVELS, 1, 1 / LEVELS, align="edge", color=[level(i / (LEVELS - 1)) for i in range(LEVELS)]
    )
    losses = [t.best_val_loss for t in best_first]
    ends = [(0.0, "left", f"best {losses[0]:.3f}")]
    if len(losses) > 1:
        ends.append((1.0, "right", f"worst {losses[-1]:.3f}"))
    if len(losses) > 2:
        ends.append((0.5, "center", f"median {median(losses):.3f}"))
    for x, side, text in ends:
        axes.annotate(
            text, (x, 0), xytext=(0, -4), textcoords="offset points", ha=side, va="top", color=colour("muted")
        )


def draw_best_so_far(history: Sequence[BestSoFar], trials: Sequence[Trial], width: float) -> Figure:
    """Draws the best loss so far over the trials, and over their summed training time."""
    narrow = width == NARROW
    drawn = figure(width, 460 if narrow else 260)
    panels = drawn.subplots(2 if narrow else 1, 1 if narrow else 2, sharey=True, squeeze=False).ravel()
    unit, size = ("minutes", 60) if history[-1].train_seconds > 180 else ("seconds", 1)
    sides = (
        ([float(b.number) for b in history], "trial"),
        ([b.train_seconds / size for b in history], f"training {unit}, all trials"),
    )
    losses = {t.number: t.best_val_loss for t in trials if t.steps}
    ended = [losses[b.number] for b in history if b.completed] or list(losses.values())
    pad = max(max(ended) - min(ended), 1e-3) * 0.15
    top = max(ended) + pad
    for axes, (xs, label) in zip(panels, sides, strict=True):
        best = [(x, b.best_val_loss) for x, b in zip(xs, history, strict=True) if b.best_val_loss is not None]
        if best:
            axes.plot(*zip(*best, strict=True), color=colour("accent"), drawstyle="steps-post", linewidth=2.4)
        for x, b in zip(xs, history, strict=True):
            if losses[b.number] <= top:
                _draw_trial(axes, x, losses[b.number], b.completed, f"trial-{b.number}")
            else:
                (mark,) = axes.plot(x, top, "^", color=colour("grey"), markersize=5, clip_on=False)
                mark.set_gid(f"trial-{b.number}")
        axes.set_ylim(min(ended) - pad, top)
        axes.set_xlabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in panels[: 2 if narrow else 1]:
        axes.set_ylabel("best_val_loss")
    return drawn


def _draw_trial(axes: Axes, x: float, y: float, completed: bool, gid: str, shade: str = "accent") -> None:
    """Draws a trial as a point: filled if it completed, hollow if not."""
    (point,) = axes.plot(
        x, y, "o", markersize=5.5, color=colour(shade if completed else "grey"),
        markerfacecolor=colour(shade) if completed else "none", markeredgewidth=1.2, alpha=0.9,
    )  # fmt: skip
    point.set_gid(gid)


def draw_kinds(
    trials: Sequence[Trial],
    width: float,
    kind: Callable[[Trial], str] = lambda t: t.kind,
    controls: Mapping[str, float] | None = None,
) -> Figure:
    """Draws the losses of each kind of schedule, best kind first, with the median of the completed trials.

    Args:
        kind: returns another kind by which the trials are to be grouped.
        controls: the loss of a kind's control, which is drawn beside its trials.
    """
    seen = [t for t in trials if t.steps]
    groups: dict[str, list[Trial]] = {}
    for trial in sorted(seen, key=lambda t: (not t.completed(), t.best_val_loss)):
        groups.setdefault(kind(trial), []).append(trial)
    drawn = figure(width, 62 + 46 * len(groups))
    axes = drawn.subplots()
    for row, (name, mine) in enumerate(groups.items()):
        if controls and name in controls:
            axes.plot(controls[name], row, "D", color=colour("orange"), markersize=7, markerfacecolor="none")
        ended = [t.best_val_loss for t in mine if t.completed()]
        if ended:
            axes.plot([median(ended)] * 2, [row - 0.33, row + 0.33], color=colour("accent"), linewidth=2)
        for i, trial in enumerate(mine):
            _draw_trial(axes, trial.best_val_loss, row + 0.1 * (i % 3 - 1), trial.completed(), f"trial-{trial.number}")
    axes.set_yticks(range(len(groups)), groups)
    axes.tick_params(axis="y", labelcolor=colour("ink"))
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("best_val_loss")
    return drawn


def draw_rungs(everywhere: Sequence[Rung], rungs: Sequence[Rung], steps: int, width: float) -> Figure:
    """Draws the rank correlation of the losses at each evaluation with the final losses, and ASHA's rungs."""
    drawn = figure(width, 250)
    axes = drawn.subplots()
    known = [(rung.step, rung.correlation) for rung in everywhere if rung.correlation is not None]
    axes.axhline(0, color=colour("muted"), linewidth=0.8)
    axes.plot(*zip(*known, strict=True), color=colour("accent"), marker="o", markersize=3.5)
    for rung in rungs:
        axes.axvline(rung.step, color=colour("orange"), linewidth=1.2, linestyle=(0, (4, 3)))
        if rung.correlation is not None:
            axes.plot(rung.step, rung.correlation, "o", color=colour("orange"), markersize=8)
            late = rung.step > 0.6 * steps
            axes.annotate(
                f"rung {rung.step:,}: {rung.correlation:.2f}", (rung.step, rung.correlation), color=colour("orange"),
                xytext=(-9 if late else 9, -17), textcoords="offset points", ha="right" if late else "left",
            )  # fmt: skip
    lowest = min(0.0, *(correlation for _, correlation in known))
    axes.set_ylim(lowest - 0.12, 1.06)
    axes.set_xlim(0, steps * 1.02)
    axes.set_xlabel("step")
    axes.set_ylabel("rank correlation with the end")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return drawn


def draw_pareto(trials: Sequence[Trial], width: float) -> Figure:
    """Draws each trial's best loss against its training time, with the Pareto front."""
    front = pareto_front(trials)
    drawn = figure(width, 300)
    axes = drawn.subplots()
    if len(front) > 1:
        x, y = ([getattr(t, name) for t in front] for name in ("train_seconds", "best_val_loss"))
        axes.plot(x, y, color=colour("accent"), drawstyle="steps-post", linewidth=1.6)
    for trial in trials:
        _draw_trial(
            axes, trial.train_seconds, trial.best_val_loss, True, f"trial-{trial.number}",
            "accent" if trial in front else "grey",
        )  # fmt: skip
    for trial in front:
        axes.annotate(
            f"{trial.number}", (trial.train_seconds, trial.best_val_loss), xytext=(0, -7),
            textcoords="offset points", ha="center", va="top", color=colour("accent"),
        )  # fmt: skip
    axes.margins(x=0.06, y=0.14)
    axes.set_xlabel("train_seconds")
    axes.set_ylabel("best_val_loss")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return drawn
