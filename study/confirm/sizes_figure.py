"""`python -m study.confirm.sizes_figure`: loss against parameters, supernets beside each size trained alone."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from study.base import cli
from study.base.errors import exit_status
from study.base.figure_style import WIDE, colour, figure, one_width, standalone
from study.base.files import atomic_path, check_output_file
from study.confirm.compared_runs import read_runs
from study.confirm.sizes import SizeRuns, by_label, compare_sizes, sizes_alone, supernet_sizes

COLOURS = ("accent", "orange", "teal", "purple", "gold")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    p = cli.parser("study.confirm.sizes_figure", "Compares the sizes of supernets with the same sizes trained alone.")
    for name, what in (("supernet", "runs of supernets"), ("alone", "runs of single sizes; of several rates the best")):
        p.add_argument(
            f"--{name}", type=Path, nargs="+", required=True, metavar="DIR", help=f"{what}: study.train --output"
        )
    p.add_argument("--output", type=Path, default=Path("sizes.svg"), metavar="FILE", help="default sizes.svg")
    args = p.parse_args(sys.argv[1:] if argv is None else argv)
    check_output_file(args.output)
    supernets = by_label(supernet_sizes(read_runs(args.supernet)))
    alone = sizes_alone(read_runs(args.alone))
    console = Console()
    for label, series in supernets.items():
        console.print(_table(label, series, alone))
    console.print("val_loss of each size, at the evaluation that is best for the run; p by Holm over the sizes")
    with atomic_path(args.output) as part:
        part.write_text(draw_sizes(supernets, alone), encoding="utf-8")
    console.print(f"figure: {args.output}")
    return 0


def _table(label: str, series: Sequence[SizeRuns], alone: Sequence[SizeRuns]) -> Table:
    table = Table(title=f"supernet, {label}", title_justify="left")
    for name in ("size", "parameters", "seeds", "supernet", "alone", "difference", "95 %", "p"):
        table.add_column(name, justify="right")
    for one in compare_sizes(series, alone):
        difference = one.found.difference
        table.add_row(
            str(one.supernet.size),
            f"{one.supernet.parameters:,}",
            str(difference.n),
            f"{one.supernet.mean:.4f}",
            f"{one.alone.mean:.4f} ({one.alone.label})",
            f"{difference.mean:+.4f}",
            "" if difference.low is None else f"{difference.low:+.4f} to {difference.high:+.4f}",
            "" if one.p_holm is None else f"{one.p_holm:.3g}",
        )
    return table


def draw_sizes(supernets: Mapping[str, list[SizeRuns]], alone: Sequence[SizeRuns]) -> str:
    """Returns the figure as SVG: the mean of each size as a line, and each seed as a dot."""
    kinds = {f"supernet, {label}": series for label, series in supernets.items()} | {
        f"each size alone, {', '.join(dict.fromkeys(s.label for s in alone))}": list(alone)
    }
    words = [
        f"{kind}: {', '.join(f'{s.mean:.3f} with {s.parameters:,}' for s in found)}" for kind, found in kinds.items()
    ]
    alt = f"Mean val_loss against the number of parameters. {'; '.join(words)}."
    return standalone(one_width("sizes", alt, lambda: _draw(kinds)).wide)


def _draw(kinds: dict[str, list[SizeRuns]]) -> Figure:
    drawn = figure(WIDE, 460)
    axes = drawn.subplots()
    *supernets, alone = kinds
    names = dict(zip(supernets, COLOURS * len(supernets), strict=False)) | {alone: "grey"}
    for kind, series in kinds.items():
        found = sorted(series, key=lambda s: s.parameters)
        tone = colour(names[kind])
        axes.plot([s.parameters for s in found], [s.mean for s in found], "o-", color=tone, label=kind)
        for s in found:
            axes.plot([s.parameters] * len(s.losses), list(s.losses.values()), "o", color=tone, markersize=3, alpha=0.5)
    axes.set_xscale("log")
    parameters = sorted({s.parameters for series in kinds.values() for s in series})
    axes.set_xticks(parameters, [f"{n / 1e3:,.0f} k" for n in parameters], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("parameters")
    axes.set_ylabel("val_loss of the size")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    return drawn


def command() -> int:
    """Runs the command of the process; returns its exit status, whatever happens."""
    return exit_status(main)


if __name__ == "__main__":
    sys.exit(command())
