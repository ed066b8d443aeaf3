"""Which parameters mattered: Optuna's importances, and each parameter's values against the losses."""

import math
import warnings
from dataclasses import dataclass

import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.base.figure_style import Drawing, both_widths, colour, figure, one_width
from study.records.optuna_study import loss_of

LEAST = 4
"""Completed trials below which an importance would mean nothing."""
TOP_SHARE = 0.1
"""The share of the trials that Optuna's importance takes as the good ones."""
FEW_IN_TOP = 5
"""Optuna calls its importance unstable if the best tenth has fewer trials than this."""
SLICE_WIDTH, SLICE_HEIGHT = 352.0, 215.0
MOST_LETTERS = 40
"""The names of choices that are longer together would touch each other below a slice."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Optuna's importances: the share of each parameter, and how many trials count as the good ones."""

    shares: dict[str, float]
    completed: int
    top: int


def importance(study: optuna.Study) -> Importance | None:
    """Returns the importances, largest first; None if too few trials were completed, or if they do not differ.

    Of several objectives, the loss counts.
    """
    study = study if len(study.directions) == 1 else _of_loss(study)
    completed = len(_completed(study))
    if completed < LEAST:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Some regimes for parameter")  # a parameter with one completed trial
        found = optuna.importance.get_param_importances(study, normalize=False)
        total = sum(found.values())
        if not total > 0:
            return None
        found = optuna.importance.get_param_importances(study)
    shares = dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))  # else the order of equals varies
    return Importance(shares=shares, completed=completed, top=max(2, math.ceil(TOP_SHARE * completed)))


def draw_importances(importance: Importance) -> Drawing:
    """Draws a bar for each parameter's importance, the largest on top."""
    shares = importance.shares

    def draw(width: float) -> Figure:
        drawn = figure(width, 70 + 32 * len(shares))
        axes = drawn.subplots()
        bars = axes.barh(list(shares), list(shares.values()), height=0.56, color=colour("accent"))
        axes.bar_label(bars, [f"{share:.2f}" if share >= 0.01 else "<0.01" for share in shares.values()], padding=4)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="importance", xlim=(0, 1.15 * max(shares.values())))
        return drawn

    alt = "Importance of each parameter: " + ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
    return both_widths("importances", alt, draw)


def draw_slices(study: optuna.Study, importance: Importance) -> list[Drawing]:
    """Draws for each parameter, most important first, the losses of the completed trials against its values."""
    completed = _completed(study)
    losses = [loss for trial in completed if (loss := loss_of(trial)) is not None]
    margin = 0.06 * (max(losses) - min(losses))
    limits = min(losses) - margin, max(losses) + margin
    return [
        one_width(
            f"slice-{name}",
            f"best_val_loss of the completed trials along {name}",
            lambda name=name: _draw_slice(name, _distribution(study, name), completed, limits),  # type: ignore[misc]
        )
        for name in importance.shares
    ]


def _draw_slice(name: str, kind: BaseDistribution, completed: list[FrozenTrial], limits: tuple[float, float]) -> Figure:
    drawn = figure(SLICE_WIDTH, SLICE_HEIGHT)
    axes = drawn.subplots()
    points = [(kind.to_internal_repr(t.params[name]), loss_of(t)) for t in completed if name in t.params]
    x, y = zip(*points, strict=True)
    axes.scatter(x, y, s=34, color=colour("accent"), alpha=0.75)
    axes.set(xlabel=name, ylabel="best_val_loss", ylim=limits)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    _show_range(axes, kind)
    return drawn


def _show_range(axes: Axes, kind: BaseDistribution) -> None:
    """Shows the whole range that the study searched, also where no trial lies."""
    if isinstance(kind, CategoricalDistribution):
        names = [str(choice) for choice in kind.choices]
        axes.set_xticks(range(len(names)), names)
        if sum(map(len, names)) > MOST_LETTERS:
            axes.tick_params(axis="x", rotation=25, labelsize=9)
        axes.set_xlim(-0.5, len(kind.choices) - 0.5)
        return
    assert isinstance(kind, FloatDistribution | IntDistribution)
    if kind.log:
        margin = (kind.high / kind.low) ** 0.05
        axes.set_xscale("log")
        axes.set_xlim(kind.low / margin, kind.high * margin)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        margin = (kind.high - kind.low) * 0.05
        axes.set_xlim(kind.low - margin, kind.high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=isinstance(kind, IntDistribution)))


def _of_loss(study: optuna.Study) -> optuna.Study:
    alone = optuna.create_study()
    for trial in _completed(study):
        alone.add_trial(create_trial(value=loss_of(trial), params=trial.params, distributions=trial.distributions))
    return alone


def _completed(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _distribution(study: optuna.Study, name: str) -> BaseDistribution:
    return next(t.distributions[name] for t in study.get_trials(deepcopy=False) if name in t.distributions)
