"""The figure of a rate over time and depth: a small heat map for each depth but uniform."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from model.regularizer import Regularizer
from model.schedules import Piecewise, ValLoss
from study.engine.display import describe
from study.report.style import LEVELS, colour, figure, level
from study.report.trials import Trial

COLUMNS = 60


def rates_over_depth(trial: Trial, n_layer: int, steps: int, columns: int = COLUMNS) -> np.ndarray:
    """Returns the rate of each block in the middle of each of `columns` equal parts of training, (n_layer, columns).

    A val_loss schedule is shown by its recorded rates, which hold from one evaluation to the next.
    """
    regularizer = Regularizer.from_dict(trial.regularizer)
    middles = (np.arange(columns) + 0.5) / columns
    if not isinstance(regularizer.schedule, ValLoss):
        return np.array([regularizer.rates(progress, n_layer) for progress in middles]).T
    rates = []
    for progress in middles:
        last = max(i for i, step in enumerate(trial.steps) if step <= progress * steps)
        held = Piecewise(points=((0.0, trial.dropout_rates[last]),))
        rates.append(Regularizer(held, regularizer.family, regularizer.depth).rates(progress, n_layer))
    return np.array(rates).T


def draw_depths(trials: Sequence[Trial], n_layer: int, steps: int, width: float) -> Figure:
    """Draws the rate of each block over the steps, a panel a trial; the darkest colour is the largest rate of all."""
    rates = [rates_over_depth(trial, n_layer, steps) for trial in trials]
    largest = max(float(found.max()) for found in rates) or 1.0
    height = max(64, 16 * n_layer)
    drawn = figure(width, 30 + (height + 46) * len(trials) + 40)
    grid = drawn.add_gridspec(len(trials) + 1, 1, height_ratios=[height] * len(trials) + [12])
    for place, (trial, found) in enumerate(zip(trials, rates, strict=True)):
        panel = drawn.add_subplot(grid[place])
        panel.set_title(f"trial {trial.number}: {describe(trial.regularizer)}")
        panel.pcolormesh(
            np.linspace(0, steps, COLUMNS + 1), np.arange(n_layer + 1) + 0.5, found, cmap=_colours(), vmin=0,
            vmax=largest, edgecolors="face", linewidth=0.4,
        )  # fmt: skip
        panel.set_ylabel("layer")
        panel.grid(visible=False)
        panel.yaxis.set_major_locator(MaxNLocator(min(n_layer, 6), integer=True))
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if place == len(trials) - 1:
            panel.set_xlabel("step")
    _draw_key(drawn.add_subplot(grid[len(trials)]), largest)
    return drawn


def _colours() -> ListedColormap:
    return ListedColormap([level(1 - i / (LEVELS - 1)) for i in range(LEVELS)])


def _draw_key(axes: Axes, largest: float) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    for i in range(LEVELS):
        axes.bar(i / LEVELS, 1, 1 / LEVELS, align="edge", color=level(1 - i / (LEVELS - 1)))
    for x, side, text in ((0.0, "left", "rate 0"), (1.0, "right", f"{largest:.3g}")):
        axes.annotate(
            text, (x, 0), xytext=(0, -4), textcoords="offset points", ha=side, va="top", color=colour("muted")
        )
