"""`python -m study.confirm`: whether the best schedules of a study are really better than the best constant rate."""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console

from study.base import cli
from study.base.errors import UserError, exit_status
from study.base.output import end_at_once
from study.confirm.options import ConfirmOptions, LookOptions, RunsOptions

DESCRIPTION = (
    "Trains the best schedules of a study and their controls with fresh seeds, and says whether one is better than the "
    "best constant rate, by how much, and how sure that is. The same command again goes on where it stopped."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    p = cli.parser("study.confirm", DESCRIPTION)
    p.add_argument("--study", metavar="NAME", help="the study to confirm", default=argparse.SUPPRESS)
    p.add_argument(
        "--runs",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="judge these folders that study.train --output wrote instead, or those below them; needs no Ray",
        default=argparse.SUPPRESS,
    )
    with_both = p.add_argument_group("with --study or --runs")
    cli.add_flags(with_both, LookOptions, show_defaults=True)
    with_study = p.add_argument_group("with --study")
    cli.add_flags(with_study, ConfirmOptions, show_defaults=True, besides=LookOptions)
    with_runs = p.add_argument_group("with --runs")
    cli.add_flags(with_runs, RunsOptions, show_defaults=True, besides=LookOptions)
    given = vars(p.parse_args(sys.argv[1:] if argv is None else argv))
    study, runs = given.pop("study", None), given.pop("runs", None)
    if (study is None) == (runs is None):
        raise UserError("give --study NAME, or --runs DIR... with the folders of runs made elsewhere")
    known = {f.name for f in fields(ConfirmOptions if runs is None else RunsOptions)}
    if foreign := [name for name in given if name not in known]:
        raise UserError(f"{cli.flag(foreign[0])} cannot be combined with {'--study' if runs is None else '--runs'}")
    if "seeds" in given and "until_decided" in given:
        raise UserError("--seeds and --until-decided exclude each other: give --max-seeds N with --until-decided")
    console = Console(width=None if sys.stdout.isatty() else 160)
    if runs is not None:
        from study.confirm.from_folders import judge_runs

        return judge_runs(runs, RunsOptions(**given), console)
    return _confirm(study, ConfirmOptions(**given), given, console)


def _confirm(name: str, options: ConfirmOptions, given: Mapping[str, Any], console: Console) -> int:
    # torch, MLflow and Ray take seconds to import, one after the other: a mistake does not wait for all of them.
    from study.confirm.plan import ConfirmationFolder, fetch, make_config
    from study.records.storage import Storage
    from study.records.study_layout import StudyFolder

    storage = Storage(options.storage).apart("confirmations")
    storage.check()
    study = StudyFolder(storage.folder, name)
    folder = ConfirmationFolder(study)
    lock = fetch(storage, study, folder)
    config = make_config(options, given, study, folder)
    if options.power:
        from study.confirm.power import tell_power

        return tell_power(config, folder, options, console)
    from study.confirm.settled import is_settled
    from study.confirm.show import show_verdict
    from study.confirm.verdict_file import is_whole, read_verdict

    verdict = read_verdict(folder.path)
    if (
        verdict is not None
        and is_whole(verdict, None if config.looks else config.seeds)
        and is_settled(config, folder, options)
    ):
        show_verdict(verdict, console)
        return 0
    from study.confirm.session import confirm_study
    from study.engine.display import WarningsTo

    logging.getLogger("study").addHandler(WarningsTo(console))
    result = confirm_study(config, storage, folder, lock, options, console)
    if result == 130 and storage.is_remote:  # interrupted: all that can be kept is kept
        end_at_once(result)
    return result


def command() -> int:
    """Runs the command of the process; returns its exit status, whatever happens."""
    return exit_status(main)


if __name__ == "__main__":
    sys.exit(command())
