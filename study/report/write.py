"""Writes a report: the page, trials.parquet beside it, and their copies in MLflow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna

from study.base.files import atomic_path
from study.base.names import PARENT_RUN
from study.base.provenance import facts
from study.records.study_layout import StudyConfig, StudyFolder
from study.report.page import Report, make_report
from study.report.source import of_study
from study.tracking.reader import TrackedStudy
from study.tracking.view import run_addresses
from study.tracking.writer import StudyWriter
from study.training.evaluation_rows import write_parquet

FIGURES = "figures"
"""The folder of the figures, on disk and among the artifacts."""


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


def report_session(
    config: StudyConfig, folder: StudyFolder, storage: str, study: optuna.Study, uri: str, writer: StudyWriter
) -> Path:
    """Makes the report of a session that is over, in the study's folder and among its artifacts; returns the page.

    `storage` is the folder or URI of studies, for the commands on the page; `uri` is the MLflow store's, for links.
    """
    pages = run_addresses(uri, writer.experiment_id or "", writer.runs)
    source = of_study(config, folder, study, facts=facts(config.corpus_sha256), pages=pages)
    report = make_report(source, None if storage == str(Path("studies").absolute()) else storage)
    output = folder.path / "report.html"
    with atomic_path(output) as part:
        part.write_text(report.html, encoding="utf-8")
    writer.artifacts(PARENT_RUN, [output])
    writer.artifacts(PARENT_RUN, write_figures(report, folder.path / FIGURES), FIGURES)
    return output


def attach(tracked: TrackedStudy, report: Report, scratch: Path) -> None:
    """Uploads the page and its figures as artifacts of the study's run. Raises OSError."""
    page = scratch / "report.html"
    page.write_text(report.html, encoding="utf-8")
    tracked.attach([page])
    tracked.attach(write_figures(report, scratch / FIGURES), FIGURES)
