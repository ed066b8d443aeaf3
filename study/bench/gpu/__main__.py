"""`python -m study.bench.gpu`: measures a preset on a GPU. It needs torch, numpy, pyarrow, safetensors and PyYAML."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from study.base import cli
from study.base.errors import UserError, exit_status
from study.bench.gpu.facts import facts
from study.bench.gpu.packing import packing, worker
from study.bench.gpu.report import Report
from study.bench.gpu.runs import runs
from study.bench.gpu.searches import searches
from study.bench.gpu.setting import Setting
from study.bench.gpu.steps import attention, limits, steps
from study.training.config import PRESETS

PARTS = ("attention", "steps", "facts", "packing")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    p = cli.parser("study.bench.gpu", "Measures a preset on a GPU; --device cpu --preset smoke is a dry run.")
    p.add_argument(
        "command",
        choices=("measure", "runs", "searches", "worker"),
        help="measure steps; make whole runs; run searches, which need Ray; (worker is a part of measure)",
    )
    p.add_argument("--corpus", required=True, metavar="FILE", help="a UTF-8 text file")
    p.add_argument("--output", type=Path, default=Path("gpu"), metavar="DIR", help="gets numbers and files")
    p.add_argument("--preset", choices=PRESETS, default="shakespeare_char", help="default shakespeare_char")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default cuda")
    p.add_argument("--steps", type=int, default=200, metavar="N", help="updates a measurement, or a trial; default 200")
    p.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="of measure; default all")
    p.add_argument("--seconds", type=float, default=300, metavar="S", help="for all runs together; default 300")
    p.add_argument("--seeds", type=int, default=20, metavar="N", help="at most so many runs an arm; default 20")
    p.add_argument("--at-once", type=int, default=1, metavar="K", help="runs at once; default 1")
    p.add_argument("--trials", type=int, default=8, metavar="N", help="trials a search; default 8")
    p.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--index", type=int, help=argparse.SUPPRESS)
    args = p.parse_args(sys.argv[1:] if argv is None else argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch can use no GPU here; give --device cpu --preset smoke for a dry run")
    args.output.mkdir(parents=True, exist_ok=True)
    setting = Setting(
        preset=args.preset, device=args.device, corpus_path=args.corpus, steps=args.steps, output=args.output
    )
    if args.command == "worker":
        worker(setting, args.folder, args.index)
        return 0
    report = Report(args.output / f"{args.command}.json")
    _say_where(report)
    if args.command == "runs":
        runs(setting, report, args.seconds, args.at_once, args.seeds)
        return 0
    if args.command == "searches":
        searches(setting, report, args.trials)
        return 0
    if "attention" in args.parts:
        attention(setting, report)
    if "steps" in args.parts:
        steps(setting, report, limits(setting, report))
    if "facts" in args.parts:
        facts(setting, report)
    if "packing" in args.parts:
        same = ["--corpus", args.corpus, "--preset", args.preset, "--device", args.device]
        packing(setting, report, [*same, "--output", str(args.output / "workers")])
    return 0


def _say_where(report: Report) -> None:
    report.add("torch", torch.__version__)
    if torch.cuda.is_available():
        report.add("gpu", torch.cuda.get_device_name())
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,power.limit", "--format=csv,noheader"]
        report.add("driver", subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip())


if __name__ == "__main__":
    sys.exit(exit_status(main))
