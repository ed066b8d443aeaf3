"""The figure of a confirmation's power: the chance to show a gain, over the seeds."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from study.base.figure_style import WIDE, colour, figure, label_ends, one_width, standalone
from study.base.files import atomic_path
from study.confirm.power import PowerAt, fixed_power

NAME = "power.svg"
COLOURS = ("grey", "accent", "teal", "orange", "purple", "gold")


def draw_power(found: Sequence[PowerAt], compared: int, plan: tuple[int, ...], folder: Path) -> Path:
    """Draws the power of fixed designs as lines and that of --until-decided as dots; returns the SVG file's path."""
    words = [f"{one.gain:.3g} seed SDs: {one.shown:.0%} after {one.mean_seeds:.1f} seeds on average" for one in found]
    alt = (
        f"The chance to show a gain of one of {compared} arms over the seeds of a fixed design, and with "
        f"--until-decided: {'; '.join(words)}."
    )
    drawing = one_width("power", alt, lambda: _draw(found, compared, plan))
    with atomic_path(folder / NAME) as part:
        part.write_text(standalone(drawing.wide), encoding="utf-8")
    return folder / NAME


def _draw(found: Sequence[PowerAt], compared: int, plan: tuple[int, ...]) -> Figure:
    drawn = figure(WIDE, 340)
    axes = drawn.subplots()
    seeds = range(2, plan[-1] + 1)
    ends = []
    for one, name in zip(found, COLOURS, strict=False):
        shown = [fixed_power(one.gain, n, compared) for n in seeds]
        axes.plot(seeds, shown, color=colour(name))
        axes.plot(one.mean_seeds, one.shown, "o", color=colour(name), markersize=7)
        ends.append((shown[-1], f"{one.gain:.3g} SD", colour(name)))
    axes.set_ylim(0, 1.02)
    axes.set_xlim(0, plan[-1])
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("seeds of each arm; dots: --until-decided, at its mean number of seeds")
    axes.set_ylabel("chance to show the gain")
    label_ends(axes, ends, plan[-1], 0.07)
    return drawn
