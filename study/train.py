"""`python -m study.train`: trains one model with one schedule."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from model.regularizer import Regularizer
from study.base import cli
from study.base.errors import DivergenceError, UserError, exit_status
from study.base.files import check_output_folder
from study.corpus import Corpus, corpus_id, load_corpus
from study.training.config import PRESETS, TrainingConfig
from study.training.evaluation_rows import Labels
from study.training.fits import check_fits
from study.training.measures import run_measured
from study.training.run_folder import RunFolder
from study.training.schedule_file import ScheduleFile, read_schedule_file
from study.training.trainer import Trainer


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    p = cli.parser("study.train", "Trains a GPT with the schedule of a file, as the trial that it comes from did.")
    p.add_argument("--schedule", type=Path, required=True, metavar="FILE", help="a schedule file")
    p.add_argument("--preset", choices=PRESETS, help="replaces the file's training config")
    p.add_argument("--output", type=Path, metavar="DIR", help="gets weights, config.yaml and metrics.jsonl")
    p.add_argument(
        "--full-evaluation",
        action="store_true",
        help="also measures what study.confirm --runs compares, into --output: full_val_loss at each evaluation, and "
        "test_loss, training loss with dropout off and sampling speed at the end",
    )
    p.add_argument("--resume", action="store_true", help="go on with a run that was stopped, in --output")
    p.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    group = p.add_argument_group("single fields of the training config, instead of the file's or the preset's")
    cli.add_flags(group, TrainingConfig, show_defaults=False)
    args = p.parse_args(sys.argv[1:] if argv is None else argv)
    file = read_schedule_file(args.schedule)
    device = _device(args.device)
    overrides = {f.name: getattr(args, f.name) for f in fields(TrainingConfig) if hasattr(args, f.name)}
    config = _training_config(file, args.preset, overrides, device)
    corpus = load_corpus(config.corpus, _show if sys.stderr.isatty() else None)
    expected = (file.provenance or {}).get("corpus_sha256")
    if expected not in (None, corpus.sha256) and not (args.preset or "corpus" in overrides):
        raise UserError(
            f"corpus {config.corpus} has SHA-256 {corpus.sha256}, the schedule was found on {expected}: "
            "give the same text, or choose with --corpus"
        )
    check_fits(config, corpus, file.regularizer)
    if args.full_evaluation and args.output is None:
        raise UserError("--full-evaluation needs the --output that gets what it measures")
    folder = _folder(args.output, args.resume, file.regularizer, config)
    if folder is not None:
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output {folder.path} cannot be made ({error.strerror}): give another folder") from None
    trainer = Trainer(config, file.regularizer, corpus, device)
    print(_what_runs(trainer), file=sys.stderr)
    try:
        _train(trainer, folder, corpus if args.full_evaluation else None)
    except DivergenceError as error:
        print(f"error: training diverged: {error}", file=sys.stderr)
        return 1
    return 0


def _train(trainer: Trainer, folder: RunFolder | None, measured_on: Corpus | None) -> None:
    with _progress_bar(trainer.config.steps) as bar:

        def on_step(step: int) -> None:
            bar.update(step - bar.n)

        if folder is None:
            run = trainer.run(on_step)
        elif measured_on is None:
            run = folder.run(trainer, Labels(), on_step)
        else:
            run = (p for p, _ in run_measured(folder, trainer, measured_on, Labels(), on_step))
        for p in run:
            on_step(p.step)
            bar.clear()
            print(
                f"step {p.step:5d}  rate {p.dropout_rate:.3f}  train_loss {p.train_loss:.4f}  val_loss {p.val_loss:.4f}"
                f"  best {p.best_val_loss:.4f} at {p.best_step}",
                flush=True,
            )
    if folder is not None:
        folder.finish()
        print(f"weights, config.yaml and metrics.jsonl are in {folder.path}")


def _show(progress: str) -> None:
    print(f"\r{progress}\033[K\r", end="", file=sys.stderr, flush=True)  # the next line takes its place


def _progress_bar(steps: int) -> Any:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:  # a bare training machine: the evaluations are printed all the same
        return _NoBar()
    return tqdm(total=steps, unit="step", dynamic_ncols=True, disable=None)  # None: only on a terminal


class _NoBar(AbstractContextManager["_NoBar"]):
    n = 0

    def update(self, steps: int) -> None: ...

    def clear(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _device(name: str | None) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch can use no GPU here; give --device cpu")
    return name or ("cuda" if torch.cuda.is_available() else "cpu")


def _training_config(file: ScheduleFile, preset: str | None, overrides: dict[str, Any], device: str) -> TrainingConfig:
    if preset is not None:
        base = asdict(PRESETS[preset].training) | (dict(PRESETS[preset].on_cuda) if device == "cuda" else {})
    elif file.training is not None:
        base = asdict(file.training)
    else:
        raise UserError(f"the schedule file has no training config: give --preset, one of {', '.join(PRESETS)}")
    if "corpus" in overrides:
        overrides["corpus"] = corpus_id(overrides["corpus"])
    return TrainingConfig.from_dict(base | overrides)


def _folder(output: Path | None, resume: bool, regularizer: Regularizer, config: TrainingConfig) -> RunFolder | None:
    if output is None:
        if resume:
            raise UserError("--resume needs the --output of the run that it is to go on with")
        return None
    check_output_folder(output, "--output")
    if output.exists() and any(output.iterdir()) and not resume:
        raise UserError(f"--output {output} is not empty: give another folder, or --resume to go on with its run")
    folder = RunFolder(output)
    if resume:
        if not folder.config.exists():
            raise UserError(f"--output {output} holds no run to go on with: leave --resume out")
        old = read_schedule_file(folder.config)
        if (old.regularizer, old.training) != (regularizer, config):
            raise UserError(f"--output {output} holds a run with another schedule or config: give the one that it has")
    return folder


def _what_runs(trainer: Trainer) -> str:
    config = trainer.config
    n = sum(p.numel() for p in trainer.model.parameters())
    numbers = f"{config.dtype}{', TF32 products' if trainer.device.type == 'cuda' and config.tf32 else ''}"
    compiled = ", compiled" if config.compile else ""
    return f"{n / 1e6:.2f} M parameters on {trainer.device.type}, {config.threads} threads, {numbers}{compiled}"


def command() -> int:
    """Runs the command of the process; returns its exit status, whatever happens."""
    return exit_status(main, ends_with_reader=True)


if __name__ == "__main__":
    sys.exit(command())
