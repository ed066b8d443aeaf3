"""`python -m study.report`: a study as one page that works offline."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from study.base import cli
from study.base.errors import exit_status
from study.base.files import check_output_file

if TYPE_CHECKING:
    from study.records.study_layout import StudyFolder


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    p = cli.parser("study.report", "Writes a study's report: one HTML file that works offline, and trials.parquet.")
    p.add_argument("--study", required=True, metavar="NAME", help="the study: folder, and MLflow experiment")
    p.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="default report.html in the study's folder, or in this folder if the study is elsewhere",
    )
    p.add_argument(
        "--storage",
        default="studies",
        metavar="PATH_OR_URI",
        help="folder of studies, or s3://BUCKET/PREFIX (default studies)",
    )
    p.add_argument(
        "--tracking-uri", metavar="URI", help="default the study's, MLFLOW_TRACKING_URI, or mlflow.db in this folder"
    )
    p.add_argument("--optuna-storage", metavar="URL", help="Optuna database, if the study's URL held a password")
    args = p.parse_args(sys.argv[1:] if argv is None else argv)
    if args.output is not None:
        check_output_file(args.output)
    from study.records.uploads import open_copy  # torch and mlflow take seconds to import
    from study.report.source import FILES

    with open_copy(args.storage, args.study, FILES) as folder:
        return _report(folder, args)


def _report(folder: "StudyFolder", args: argparse.Namespace) -> int:
    from study.report.page import make_report
    from study.report.source import from_folder, from_mlflow, tracked_study
    from study.report.write import attach, write_report

    known = folder.config.exists()
    is_here = known and "://" not in args.storage
    output = args.output or (folder.path / "report.html" if is_here else Path("report.html"))
    check_output_file(output, "the report's default" if args.output is None else "--output")
    tracked = tracked_study(folder if known else None, args.study, args.tracking_uri)
    if known:
        source = from_folder(folder, args.optuna_storage, tracked)
    else:
        assert tracked is not None
        source = from_mlflow(tracked, args.optuna_storage)
    report = make_report(source, None if args.storage == "studies" else args.storage)
    write_report(report, source.rows, output)
    if tracked is not None:
        try:
            with tempfile.TemporaryDirectory() as scratch:
                attach(tracked, report, Path(scratch))
        except OSError as error:  # the report exists: only its copy in MLflow is missing
            print(f"warning: MLflow did not take the report and its figures: {error}", file=sys.stderr)
    print(f"{output}: {len(source.records)} trials of study {args.study}")
    return 0


def command() -> int:
    """Runs the command of the process; returns its exit status, whatever happens."""
    return exit_status(main)


if __name__ == "__main__":
    sys.exit(command())
