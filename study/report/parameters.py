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
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
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
        found = optuna.importance.get_param_importances(study)
    shares = dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))  # else the order of equals varies
    return Importance(shares=shares, completed=completed, top=max(2, math.ceil(TOP_SHARE * completed)))


def draw_importances(study: optuna.Study, found: Importance) -> Drawing:
    """Returns Optuna's plot of the importances."""

    def draw(width: float) -> Figure:
        with _quiet():
            axes = plots.plot_param_importances(study)
        for bar in axes.patches:
            assert isinstance(bar, Rectangle)
            bar.set(color=colour("accent"), height=0.56, y=bar.get_y() + 0.12)
        for label in axes.texts:
            label.set_text(f"\N{NO-BREAK SPACE}{label.get_text()}")
        if (legend := axes.get_legend()) is not None:
            legend.remove()
        axes.set(xlabel="importance", ylabel="", xlim=(0, 1.15 * max(found.shares.values())))
        return _ours(axes, width, 70 + 32 * len(found.shares))

    alt = "Importance of each parameter: " + ", ".join(f"{name} {share:.2f}" for name, share in found.shares.items())
    return both_widths("importances", alt, draw)


def draw_slices(study: optuna.Study, found: Importance) -> list[Drawing]:
    """Returns Optuna's slice of each parameter, most important first: the completed trials' losses along it."""

    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    losses = [trial.value for trial in completed if trial.value is not None]
    pad = 0.06 * (max(losses) - min(losses))

    def draw(name: str) -> Figure:
        with _quiet():
            axes = plots.plot_slice(study, params=[name], target_name="best_val_loss")
        assert isinstance(axes, Axes)  # of one parameter
        for bar in axes.figure.axes[1:]:  # says which colour is which trial
            bar.remove()
        for points in axes.collections:
            points.set_array(None)
            points.set(color=colour("accent"), alpha=0.75, sizes=[34])
        _show_range(axes, _distribution(study, name))
        axes.set_ylim(min(losses) - pad, max(losses) + pad)
        axes.yaxis.set_major_locator(MaxNLocator(5))
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


def _distribution(study: optuna.Study, name: str) -> BaseDistribution:
    return next(t.distributions[name] for t in study.get_trials(deepcopy=False) if name in t.distributions)


def _show_range(axes: Axes, kind: BaseDistribution) -> None:
    """Shows the whole range that was searched, not only where trials lie."""
    if not isinstance(kind, FloatDistribution | IntDistribution):
        labels = [label.get_text().strip("'") for label in axes.get_xticklabels()]  # Optuna writes them as in Python
        axes.set_xticks(axes.get_xticks(), labels)
    elif kind.log:
        pad = (kind.high / kind.low) ** 0.05
        axes.set_xlim(kind.low / pad, kind.high * pad)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        pad = (kind.high - kind.low) * 0.05
        axes.set_xlim(kind.low - pad, kind.high + pad)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=isinstance(kind, IntDistribution)))


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
    """Without warnings that these plots are experimental, and of what the caption says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for ours in ("No artists with labels found", "Attempting to set identical", "Some regimes for parameter"):
            warnings.filterwarnings("ignore", message=ours)  # one completed trial with a parameter is no mistake
        yield
