"""`python -m study.confirm`: whether the best schedules of a study are really better than the best constant rate."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from study import flags
from study.confirmation.options import ConfirmOptions, RunsOptions
from study.errors import UserError, exit_status

DESCRIPTION = (
    "Trains the best schedules of a study and their controls with fresh seeds, and says whether one is better than the "
    "best constant rate, by how much, and how sure that is. The same command again goes on where it stopped."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    p = flags.parser("study.confirm", DESCRIPTION)
    p.add_argument("--study", metavar="NAME", help="the study to confirm", default=argparse.SUPPRESS)
    p.add_argument(
        "--runs",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="judge these folders that study.train --output wrote instead, or those below them; needs no Ray",
        default=argparse.SUPPRESS,
    )
    with_study = p.add_argument_group("with --study")
    flags.add_flags(with_study, ConfirmOptions, show_defaults=True)
    with_runs = p.add_argument_group("with --runs")
    flags.add_flags(with_runs, RunsOptions, show_defaults=True)
    given = vars(p.parse_args(sys.argv[1:] if argv is None else argv))
    study, runs = given.pop("study", None), given.pop("runs", None)
    if (study is None) == (runs is None):
        raise UserError("give --study NAME, or --runs DIR... with the folders of runs made elsewhere")
    options = ConfirmOptions if runs is None else RunsOptions
    if foreign := [name for name in given if name not in {f.name for f in options.__dataclass_fields__.values()}]:
        raise UserError(f"{flags.flag(foreign[0])} is of no use with {'--study' if runs is None else '--runs'}")
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 160)
    if runs is not None:
        from study.confirmation.elsewhere import judge_runs

        return judge_runs(runs, RunsOptions(**given), console)
    # Ray, MLflow and torch take seconds to import: --help and a mistyped flag do not wait for them.
    from study.confirmation.session import confirm_study

    return confirm_study(study, ConfirmOptions(**given), given, console)


if __name__ == "__main__":
    sys.exit(exit_status(main))
