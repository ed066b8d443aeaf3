"""The style of figures: one palette for light and dark pages, and SVG that takes the colours and font of its page."""

import html
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PALETTE: dict[str, tuple[str, str]] = {  # name: (light, dark)
    "paper": ("#ffffff", "#14181d"),
    "ink": ("#1c2128", "#e6e9ee"),
    "muted": ("#5b6570", "#9fa9b5"),
    "rule": ("#dde2e7", "#313943"),
    "accent": ("#1b5fc1", "#78b2ff"),
    # These differ from one another and from the accent under every common kind of colour blindness.
    "orange": ("#c2540a", "#ff9d52"),
    "teal": ("#0b7d70", "#3fc6b3"),
    "purple": ("#8a4aa5", "#d09ae8"),
    "gold": ("#8c6900", "#e2bb45"),
    "grey": ("#6d7680", "#8b959f"),
}
LEVELS = 9
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
WIDE, NARROW = 720.0, 358.0
"""Widths of figures for a screen and for a phone, in units of which their text has 12."""


def _blend(first: str, last: str, share: float) -> str:
    a, b = (bytes.fromhex(colour[1:]) for colour in (first, last))
    return "#" + bytes(round(x + (y - x) * share) for x, y in zip(a, b, strict=True)).hex()


for _i in range(LEVELS):  # from the best to the worst
    _share = _i / (LEVELS - 1)
    PALETTE[f"level{_i}"] = (_blend("#0a4fb4", "#cfd9e6", _share), _blend("#8cc0ff", "#2f3f55", _share))

_NAMES = {light: name for name, (light, _) in PALETTE.items()}
assert len(_NAMES) == len(PALETTE), "figures are drawn in the light colours, which are then known by their value"


def colour(name: str) -> str:
    """Returns the light colour of a name; `inline` replaces it by the colour of the page's mode."""
    return PALETTE[name][0]


def level(share: float) -> str:
    """Returns a colour from the best (0) to the worst (1)."""
    return colour(f"level{round(min(max(share, 0), 1) * (LEVELS - 1))}")


def variables() -> str:
    """Returns the palette as CSS."""
    light, dark = (";".join(f"--{name}:{both[i]}" for name, both in PALETTE.items()) for i in (0, 1))
    return f":root{{color-scheme:light dark;{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"


SVG_RULES = "svg *{stroke-linejoin:round;stroke-linecap:butt}svg text{font-variant-numeric:tabular-nums}"


@contextmanager
def drawing() -> Iterator[None]:
    """Sets matplotlib to our style, and restores its settings afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "figure.dpi": 72,  # a point is a unit of the SVG
                "svg.fonttype": "none",
                "text.parse_math": False,  # the names of arms may contain a dollar sign
                "font.family": "DejaVu Sans",  # comes with matplotlib; wider than pages' fonts, so no text overlaps
                "font.size": 12,
                "axes.labelsize": 12,
                "axes.titlesize": 12,
                "axes.titlelocation": "left",
                "axes.titlecolor": colour("ink"),
                "axes.edgecolor": colour("rule"),
                "axes.labelcolor": colour("muted"),
                "axes.facecolor": "none",
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.axisbelow": True,
                "axes.formatter.useoffset": False,
                "grid.color": colour("rule"),
                "grid.linewidth": 0.8,
                "text.color": colour("ink"),
                "xtick.color": colour("rule"),
                "xtick.labelcolor": colour("muted"),
                "ytick.color": colour("rule"),
                "ytick.labelcolor": colour("muted"),
                "xtick.major.size": 4,
                "ytick.major.size": 0,
                "lines.linewidth": 1.8,
                "lines.solid_capstyle": "round",
                "legend.frameon": False,
                "figure.facecolor": "none",
                "savefig.facecolor": "none",
                "figure.constrained_layout.use": True,
                "figure.constrained_layout.h_pad": 0.06,
                "figure.constrained_layout.w_pad": 0.06,
            }
        )
        yield


def figure(width: float, height: float) -> Figure:
    """Returns an empty figure; its size is in units of the SVG."""
    return Figure(figsize=(width / 72, height / 72))


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure as SVG for wide and narrow pages; `narrow` is None if one SVG serves both.

    `alt` describes the figure in words.
    """

    name: str
    alt: str
    wide: str
    narrow: str | None


def both_widths(
    name: str, alt: str, draw: Callable[[float], Figure], titles: Mapping[str, str] | None = None
) -> Drawing:
    """Draws a figure for both widths.

    Args:
        draw: makes the figure, given its width.
        titles: the tooltips of parts, by their gid.
    """
    with drawing():
        wide, narrow = (inline(draw(width), f"{name}-{width:.0f}", alt, titles or {}) for width in (WIDE, NARROW))
    return Drawing(name=name, alt=alt, wide=wide, narrow=narrow)


def one_width(name: str, alt: str, draw: Callable[[], Figure]) -> Drawing:
    """Draws a figure that serves wide and narrow pages."""
    with drawing():
        return Drawing(name=name, alt=alt, wide=inline(draw(), name, alt, {}), narrow=None)


def inline(drawn: Figure, prefix: str, alt: str, titles: Mapping[str, str]) -> str:
    """Returns a figure as an `svg` element with the page's colours and font, and with ids that start with `prefix`."""
    if (layout := drawn.get_layout_engine()) is not None:  # savefig would draw the whole figure once more for it
        layout.execute(drawn)
        drawn.set_layout_engine("none")
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": prefix}):
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    width, height = drawn.get_size_inches() * 72
    text = buffer.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", body)
    body = re.sub(r'<g id="([^"]*)">', lambda m: _group(titles.get(m[1])), body)
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", body)
    body = body.replace("font-family: 'DejaVu Sans'", "font-family: inherit")
    body = re.sub(r"#[0-9a-f]{6}\b", lambda m: _variable(m[0]), body)
    body = re.sub(r"\n\s*", "\n", body)
    label = html.escape(alt, quote=True)
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{label}">{body}</svg>'


def _group(title: str | None) -> str:
    return "<g>" if title is None else f"<g><title>{html.escape(title)}</title>"


def _variable(value: str) -> str:
    return f"var(--{_NAMES[value]},{value})" if value in _NAMES else value


def standalone(svg: str) -> str:
    """Returns an inline figure as the text of an SVG file with its own colours and background."""
    css = f"{variables()}{SVG_RULES}svg{{background:var(--paper);font-family:{FONT.replace(chr(34), chr(39))}}}"
    head, _, body = svg.partition(">")
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"{head.replace('<svg', f'<svg {names}', 1)}><style>{css}</style>{body}"


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], x: float, gap: float) -> None:
    """Writes a name beside the right end of each line; names that would touch move apart.

    Args:
        ends: (y, name, colour) of each line.
        gap: the least distance between two names, in data units.
    """
    ends = sorted(ends)
    low, high = axes.get_ylim()
    for y, (end, name, shade) in zip(spread([y for y, _, _ in ends], gap, low, high), ends, strict=True):
        axes.annotate(
            name, (x, end), xytext=(1.035 * x, y), va="center", color=shade, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": shade, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 1},
        )  # fmt: skip


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves rising values apart by `gap`, each group around its mean, and within the bounds if there is room."""
    groups: list[list[float]] = []  # values of each group
    for value in values:
        groups.append([value])
        while len(groups) > 1 and _first(groups[-1], gap, low, high) < _last(groups[-2], gap, low, high) + gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_first(group, gap, low, high) + i * gap for group in groups for i in range(len(group))]


def _first(group: Sequence[float], gap: float, low: float, high: float) -> float:
    extent = (len(group) - 1) * gap
    return max(min(sum(group) / len(group) - extent / 2, high - extent), low)


def _last(group: Sequence[float], gap: float, low: float, high: float) -> float:
    return _first(group, gap, low, high) + (len(group) - 1) * gap
