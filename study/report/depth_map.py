"""The figure of a rate over time and depth: a small heat map for each depth but uniform."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from model.regularizer import Regularizer
from model.schedules import Piecewise, ValLoss
from study.base.figure_style import LEVELS, colour, figure, level
from study.engine.display import describe
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
        for layer, blocks in enumerate(found, 1):
            _draw_layer(panel, layer, blocks / largest, steps)
        panel.set_xlim(0, steps)
        panel.set_ylim(0.5, n_layer + 0.5)
        panel.set_ylabel("layer")
        panel.grid(visible=False)
        panel.set_yticks(range(1, n_layer + 1, -(-n_layer // 6)))
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if place == len(trials) - 1:
            panel.set_xlabel("step")
    _draw_key(drawn.add_subplot(grid[len(trials)]), largest)
    return drawn


def _draw_layer(panel: Axes, layer: int, shares: np.ndarray, steps: int) -> None:
    """Draws a bar for each run of equal colours: cells side by side would show their edges."""
    end = 0
    for place, cells in groupby(round(share * (LEVELS - 1)) for share in shares):
        begin, end = end, end + len(list(cells))
        left, right = (edge * steps / len(shares) for edge in (begin, end))
        panel.broken_barh([(left, right - left)], (layer - 0.5, 1), color=level(1 - place / (LEVELS - 1)), linewidth=0)


def _draw_key(axes: Axes, largest: float) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    for i in range(LEVELS):
        axes.bar(i / LEVELS, 1, 1 / LEVELS, align="edge", color=level(1 - i / (LEVELS - 1)))
    for x, side, text in ((0.0, "left", "rate 0"), (1.0, "right", f"{largest:.3g}")):
        axes.annotate(
            text, (x, 0), xytext=(0, -4), textcoords="offset points", ha=side, va="top", color=colour("muted")
        )
