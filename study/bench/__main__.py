"""`python -m study.bench`: prints tables and writes JSON."""

import importlib.util
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from study.base import cli
from study.base.errors import UserError, exit_status
from study.base.files import check_output_file
from study.bench.family_steps import bench_families
from study.bench.steps import bench_compilations, bench_evaluation, bench_sampling, bench_saving, bench_steps
from study.corpus import load_corpus

PARTS = ("steps", "families", "compilations", "evaluation", "sampling", "studies")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    p = cli.parser("study.bench", "Times training steps, evaluation, sampling and whole studies, side by side.")
    p.add_argument("--output", type=Path, metavar="FILE", help="file for all numbers as JSON")
    p.add_argument("--only", choices=PARTS, action="append", metavar="PART", help=f"one of {', '.join(PARTS)}")
    p.add_argument("--rounds", type=int, default=15, metavar="N", help="rounds of the training steps (default 15)")
    p.add_argument("--study-steps", type=int, default=400, metavar="N", help="steps of each trial (default 400)")
    p.add_argument("--corpus", default="shakespeare", metavar="NAME_OR_PATH", help="default shakespeare")
    args = p.parse_args(sys.argv[1:] if argv is None else argv)
    if args.rounds < 1 or args.study_steps < 50:
        raise UserError("--rounds must be at least 1 and --study-steps at least 50")
    if args.output is not None:
        check_output_file(args.output)
    parts = args.only or PARTS
    corpus = load_corpus(args.corpus)
    numbers: dict[str, float] = {}
    say = _say
    say(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}")
    if "steps" in parts:
        numbers |= bench_steps(say, args.rounds)
    if "families" in parts:
        numbers |= bench_families(say, args.rounds)
    if "compilations" in parts:
        numbers |= bench_compilations(say)
    if "evaluation" in parts:
        numbers |= bench_evaluation(say, corpus) | bench_saving(say, corpus)
    if "sampling" in parts:
        numbers |= bench_sampling(say)
    if "studies" in parts:
        if importlib.util.find_spec("ray") is None:
            say("ray is not installed: skipping whole studies")
        else:
            from study.bench.studies import bench_studies

            numbers |= bench_studies(say, corpus, args.study_steps)
    say("")
    for key in sorted(numbers):
        say(f"{key:<32} {numbers[key]:.3f}")
    if args.output is not None:
        args.output.write_text(json.dumps(numbers, indent=1, sort_keys=True) + "\n")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def command() -> int:
    """Runs the command of the process; returns its exit status, whatever happens."""
    return exit_status(main)


if __name__ == "__main__":
    sys.exit(command())
