"""`python -m study.export`: writes a study's best schedule, or one size of its best supernet, from MLflow alone."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model.size import Size
from study.base import cli
from study.base.errors import UserError, exit_status
from study.base.files import check_output_file, check_output_folder

if TYPE_CHECKING:
    from study.tracking.reader import TrackedStudy, TrackedTrial


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    p = cli.parser("study.export", "Writes the best schedule of a study into a file that study.train takes.")
    p.add_argument("--study", required=True, metavar="NAME", help="the study, an MLflow experiment")
    p.add_argument(
        "--output", type=Path, metavar="PATH", help="default best_schedule.yaml; with --size a folder, NAME-WIDTHxDEPTH"
    )
    p.add_argument(
        "--size",
        type=_size,
        metavar="WIDTH,DEPTH",
        help="of a study with --task supernet: writes this size of the best supernet as an ordinary GPT, as in 0.5,2",
    )
    p.add_argument(
        "--pick",
        choices=("best", "fastest"),
        default="best",
        help="best (default): the winner; fastest, of a study with --objectives loss,time: the end of the Pareto front "
        "with the shortest training time, whatever its loss, since only you know what time is worth",
    )
    p.add_argument("--tracking-uri", metavar="URI", help="default MLFLOW_TRACKING_URI, or mlflow.db in this folder")
    args = p.parse_args(sys.argv[1:] if argv is None else argv)
    if args.size is None:
        output = args.output or Path("best_schedule.yaml")
        check_output_file(output)
    else:
        output = args.output or Path(f"{args.study}-{args.size.name}")
        check_output_folder(output, "--output")
    from study.base.names import LOSS_AND_TIME, METRIC, SECONDS, TRIAL
    from study.search.winner import winning_file
    from study.tracking.reader import TrackedStudy  # mlflow takes seconds to import

    study = TrackedStudy(args.tracking_uri, args.study)
    timed = study.objectives == LOSS_AND_TIME
    if args.pick == "fastest" and not timed:
        raise UserError(
            f"--pick fastest: study {study.name} minimised the loss alone, and the times of its trials may not be "
            "comparable: leave --pick out, or search with --objectives loss,time"
        )
    front = study.front() if timed else []
    winner = study.trial(front[0]) if args.pick == "fastest" else study.winner()
    if args.size is not None:
        return _write_size(study, winner, args.size, output)
    file = winning_file(
        winner.file,
        study=study.name,
        trial=winner.number,
        run_id=winner.run_id,
        val_losses=winner.val_losses,
        facts=study.tags,
    )
    file.write(output)
    best = min(loss for _, loss in winner.val_losses)
    mean = "" if winner.mean is None else f" (mean of all its seeds {winner.mean:.4f})"
    print(f"{output}: trial {winner.number} of study {study.name}, best_val_loss {best:.4f}{mean}")
    if front:
        points = (
            f"trial {run.data.tags[TRIAL]} ({run.data.metrics[SECONDS]:.1f} s, {run.data.metrics[METRIC]:.4f})"
            for run in front
        )
        print(f"Pareto front, fastest first: {', '.join(points)}")
    return 0


def _size(text: str) -> Size:
    try:
        return Size.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _write_size(study: "TrackedStudy", winner: "TrackedTrial", size: Size, output: Path) -> int:
    from study.tasks.supernet import extract_run  # torch takes seconds to import

    with tempfile.TemporaryDirectory() as folder:
        facts = {"study": study.name, "trial": winner.number, "run_id": winner.run_id}
        made = extract_run(study.download_checkpoint(winner, Path(folder)), size, output, facts)
    print(
        f"{output}: size {size} of trial {winner.number} of study {study.name}, {made.parameters:,} parameters, "
        f"weights of step {made.step}: an ordinary GPT (model.safetensors, config.yaml)"
    )
    return 0


def command() -> int:
    """Runs the command of the process; returns its exit status, whatever happens."""
    return exit_status(main)


if __name__ == "__main__":
    sys.exit(command())
