"""Writes a report: the page with trials.parquet beside it, and what goes to MLflow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study.corpus import atomic_path
from study.report.page import Report
from study.rows import write_parquet
from study.tracking.reader import TrackedStudy

FIGURES = "figures"
"""The folder of the figures, among the artifacts too."""


def write_report(report: Report, rows: Sequence[dict[str, Any]], output: Path) -> None:
    """Writes the page, and trials.parquet beside it."""
    with atomic_path(output) as part:
        part.write_text(report.html, encoding="utf-8")
    write_parquet(list(rows), output.parent / "trials.parquet")


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Writes each figure as an SVG file; returns them."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}.svg" for name in report.figures]
    for path, svg in zip(paths, report.figures.values(), strict=True):
        with atomic_path(path) as part:
            part.write_text(svg, encoding="utf-8")
    return paths


def attach(tracked: TrackedStudy, report: Report, scratch: Path) -> None:
    """Uploads the page and its figures as artifacts of the study's run. Raises OSError."""
    page = scratch / "report.html"
    page.write_text(report.html, encoding="utf-8")
    tracked.attach([page])
    tracked.attach(write_figures(report, scratch / FIGURES), FIGURES)
