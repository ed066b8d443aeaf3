"""Which parameters mattered: Optuna's own importance, and its own plots in our colours."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
import optuna
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots

from study.report.data import Edge, at_edge
from study.report.style import Drawing, both_widths, colour, one_width

mpl.use("agg")  # Optuna draws with pyplot, which would look for a screen

LEAST = 4
"""Completed trials below which an importance would say nothing at all."""
TOP_SHARE = 0.1
"""The share of the trials that Optuna's importance takes as the good ones."""
SLICE = (352.0, 215.0)


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Optuna's importances: the share of each parameter, and how many trials stand for the good ones."""

    shares: dict[str, float]
    completed: int
    top: int


def importance(study: optuna.Study) -> Importance | None:
    """Returns the importances, largest first; None where trials are too few, or do not differ, to have any."""
    completed = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    if completed < LEAST:
        return None
    with _quiet():
        found = optuna.importance.get_param_importances(study, normalize=False)
        if not sum(found.values()) > 0:
            return None
        shares = optuna.importance.get_param_importances(study)
    return Importance(shares=shares, completed=completed, top=max(2, math.ceil(TOP_SHARE * completed)))


def draw_importances(study: optuna.Study, found: Importance) -> Drawing:
    """Returns Optuna's plot of the importances."""

    def draw(width: float) -> Figure:
        with _quiet():
            axes = plots.plot_param_importances(study)
        for bar in axes.patches:
            bar.set_color(colour("accent"))
        if (legend := axes.get_legend()) is not None:
            legend.remove()
        axes.set(xlabel="importance", ylabel="", xlim=(0, 1.15 * max(found.shares.values())))
        return _ours(axes, width, 70 + 32 * len(found.shares))

    alt = "Importance of each parameter: " + ", ".join(f"{name} {share:.2f}" for name, share in found.shares.items())
    return both_widths("importances", alt, draw)


def draw_slices(study: optuna.Study, found: Importance) -> list[Drawing]:
    """Returns Optuna's slice of each parameter, most important first: the completed trials' losses along it."""

    def draw(name: str) -> Figure:
        with _quiet():
            axes = plots.plot_slice(study, params=[name], target_name="best_val_loss")
        for bar in axes.figure.axes[1:]:  # says which colour is which trial
            bar.remove()
        for points in axes.collections:
            points.set(color=colour("accent"), alpha=0.75, sizes=[34])
        if isinstance(_kind(study, name), FloatDistribution) and axes.get_xscale() == "linear":
            axes.xaxis.set_major_locator(MaxNLocator(4))
        if isinstance(_kind(study, name), IntDistribution):
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        return _ours(axes, SLICE[0], SLICE[1])

    return [
        one_width(f"slice-{name}", f"best_val_loss of the completed trials along {name}", lambda n=name: draw(n))  # type: ignore[misc]
        for name in found.shares
    ]


def winner_edges(study: optuna.Study) -> list[Edge]:
    """Returns the numeric parameters of the best trial that lie at an end of their range, as Optuna has it."""
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not completed:
        return []
    winner = min(completed, key=lambda trial: (trial.value, trial.number))
    edges = []
    for name, kind in winner.distributions.items():
        if isinstance(kind, FloatDistribution | IntDistribution):
            whole = isinstance(kind, IntDistribution)
            edges.append(at_edge(name, winner.params[name], kind.low, kind.high, log=kind.log, whole=whole))
    return [edge for edge in edges if edge is not None]


def _kind(study: optuna.Study, name: str) -> BaseDistribution:
    return next(t.distributions[name] for t in study.get_trials(deepcopy=False) if name in t.distributions)


def _ours(axes: Axes, width: float, height: float) -> Figure:
    """Returns the figure of one of Optuna's plots, its size and colours ours: Optuna draws with a style of its own."""
    drawn = axes.get_figure()
    assert isinstance(drawn, Figure)
    plt.close(drawn)
    drawn.set_size_inches(width / 72, height / 72)
    drawn.set_dpi(72)
    drawn.set_layout_engine("constrained")
    drawn.patch.set_visible(False)
    axes.set_title("")
    axes.patch.set_visible(False)
    axes.grid(color=colour("rule"), linewidth=0.8)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=colour("rule"))
    axes.tick_params(color=colour("rule"), labelcolor=colour("muted"), labelsize=12)
    axes.tick_params(axis="y", length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=colour("muted"), fontsize=12)
    for text in axes.texts:
        text.set(color=colour("ink"), fontsize=12)
    return drawn


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's warnings that these plots are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="No artists with labels found")
        yield
