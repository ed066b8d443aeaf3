"""`python -m study.search`: the study."""

import logging
import sys
from collections.abc import Sequence

from study.base import cli
from study.base.errors import exit_status
from study.base.output import end_at_once
from study.search.options import SearchOptions
from study.tasks.help import HELP

DESCRIPTION = (
    "Searches for the best dropout schedule of a GPT, with Ray Tune and Optuna, and shows its trials in MLflow."
)
CLUSTER = """on eight GPUs of two machines, with a bucket that both may use:
  ray start --head --port 6379                          # on the first machine, with AWS_* set if the bucket wants them
  ray start --address FIRST:6379                        # on the second, likewise
  mlflow server --host 0.0.0.0 --allowed-hosts 'FIRST:5000,localhost:*'     # anywhere both reach
  export MLFLOW_TRACKING_URI=http://FIRST:5000          # on the first, and then:
  python -m study.search --address auto --gpus 8 --storage s3://BUCKET/studies
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options, given = cli.parse(SearchOptions, "study.search", DESCRIPTION, argv, CLUSTER)
    if options.task_help:
        print(HELP)
        return 0
    # Ray, MLflow and torch take seconds to import: --help and a mistyped flag do not wait for them.
    from rich.console import Console

    from study.engine.display import WarningsTo
    from study.search.plan import make_plan
    from study.search.session import run_session

    console = Console(width=None if sys.stdout.isatty() else 120)
    logging.getLogger("study").addHandler(WarningsTo(console))
    with console.status("starting Ray and MLflow") as status:
        plan = make_plan(options, given, status.update)
    if plan is None:
        console.print(f"study {options.name} has all its trials: there is nothing to do")
        return 0
    result = run_session(plan, console)
    if result == 130 and plan.storage.is_remote:  # interrupted: all that can be kept is kept
        end_at_once(result)
    return result


def command() -> int:
    """Runs the command of the process; returns its exit status, whatever happens."""
    return exit_status(main)


if __name__ == "__main__":
    sys.exit(command())
