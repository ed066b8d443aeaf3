"""`python -m study.train`: trains one model with one schedule: a task of the project, or the user's own."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from model.regularizer import Regularizer
from study.base import cli
from study.base.errors import DivergenceError, UserError, exit_status
from study.base.files import check_output_folder
from study.corpus import Corpus, corpus_id, load_corpus
from study.tasks.data import Data, check_data, make_trainer
from study.tasks.task_files import TaskFiles, read_task_files
from study.training.built_in import BUILT_IN, LANGUAGE, PRESET_NAMES, SUPERNET, task_name
from study.training.config import TrainingConfig
from study.training.evaluation_rows import Labels
from study.training.measures import run_measured
from study.training.run_folder import RunFolder
from study.training.schedule_file import ScheduleFile, read_schedule_file
from study.training.sentences_config import SENTENCES, STAGES, SentencesConfig
from study.training.supernet_config import SupernetConfig
from study.training.task_config import TASK, RunConfig, Setting, TaskConfig, default_interval, parse_settings
from study.training.trainable import Trainable
from study.training.trainer import Trainer


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    p = cli.parser(
        "study.train",
        "Trains a model with the schedule of a file, as its trial was trained: a GPT, or your own task.",
    )
    p.add_argument("--schedule", type=Path, required=True, metavar="FILE", help="a schedule file")
    p.add_argument("--preset", choices=PRESET_NAMES, help="replaces the file's training config")
    p.add_argument(
        "--task",
        metavar="NAME_OR_FILE.py:FUNCTION",
        help=f"the task that --preset is of, {', '.join(BUILT_IN)} (default {LANGUAGE}); or your own (see study.search "
        "--task-help), whose default is the file's, if it lies in this folder",
    )
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of your task, beside the file's"
    )
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
    for name, cls in ((SUPERNET, SupernetConfig), (SENTENCES, SentencesConfig)):
        group = p.add_argument_group(f"those that only the task {name} has")
        cli.add_flags(group, cls, show_defaults=False, besides=TrainingConfig)
    args = p.parse_args(sys.argv[1:] if argv is None else argv)
    file = read_schedule_file(args.schedule)
    device = _device(args.device)
    known = {f.name for cls in (TrainingConfig, SupernetConfig, SentencesConfig) for f in fields(cls)} - {TASK}
    overrides = {name: getattr(args, name) for name in sorted(known) if hasattr(args, name)}
    own_task = None if args.task in BUILT_IN else args.task
    config: RunConfig
    data: Data
    if own_task is not None or (isinstance(file.training, TaskConfig) and args.preset is None and args.task is None):
        if args.preset is not None or args.full_evaluation:
            name = "--preset" if args.preset else "--full-evaluation"
            raise UserError(f"{name} is for the GPT, not for a task: leave it out")
        data = _task(file, own_task)
        config = _task_config(file, data, overrides, parse_settings(args.set))
    else:
        if args.set:
            raise UserError(f"--set {args.set[0]} needs --task FILE.py:FUNCTION: add it, or leave --set out")
        config = _training_config(file, args.task, args.preset, overrides, device)
        data = load_corpus(config.corpus, _show if sys.stderr.isatty() else None)
        expected = (file.provenance or {}).get("corpus_sha256")
        if expected not in (None, data.sha256) and not (args.preset or "corpus" in overrides):
            raise UserError(
                f"corpus {config.corpus} has SHA-256 {data.sha256}, the schedule was found on {expected}: "
                "give the same text, or choose with --corpus"
            )
    check_data(config, data, file.regularizer)
    if args.full_evaluation and args.output is None:
        raise UserError("--full-evaluation needs the --output that gets what it measures")
    folder = _folder(args.output, args.resume, file.regularizer, config)
    if folder is not None:
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output {folder.path} cannot be made ({error.strerror}): give another folder") from None
    trainer = make_trainer(config, file.regularizer, data, device, args.output)
    print(_what_runs(trainer), file=sys.stderr)
    try:
        _train(trainer, folder, data if args.full_evaluation else None)
    except DivergenceError as error:
        print(f"error: training diverged: {error}", file=sys.stderr)
        return 1
    return 0


def _train(trainer: Trainable, folder: RunFolder | None, measured_on: Data | None) -> None:
    with _progress_bar(trainer.config.steps) as bar:

        def on_step(step: int) -> None:
            bar.update(step - bar.n)

        if folder is None:
            run = trainer.run(on_step)
        elif isinstance(measured_on, Corpus) and isinstance(trainer, Trainer):
            run = (p for p, _ in run_measured(folder, trainer, measured_on, Labels(), on_step))
        else:
            run = folder.run(trainer, Labels(), on_step)
        for p in run:
            on_step(p.step)
            bar.clear()
            losses = {"train_loss": p.train_loss, "val_loss": p.val_loss, "best": p.best_val_loss}
            shown = "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items() if loss is not None)
            more = "".join(f"  {name} {value:.4g}" for name, value in p.metrics.items())
            print(f"step {p.step:5d}  rate {p.dropout_rate:.3f}  {shown} at {p.best_step}{more}", flush=True)
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


def _training_config(
    file: ScheduleFile, task: str | None, preset: str | None, overrides: dict[str, Any], device: str
) -> TrainingConfig:
    presets = BUILT_IN[task or LANGUAGE].presets
    if preset is not None and preset in presets:
        base = replace(presets[preset].training, **(dict(presets[preset].on_cuda) if device == "cuda" else {}))
    elif preset is None and isinstance(file.training, TrainingConfig) and task in (None, task_name(file.training)):
        base = file.training
    else:
        lacks = f"--preset {preset} is none of" if preset else "the schedule file has no training config of"
        raise UserError(f"{lacks} the task {task or LANGUAGE}: give --preset, one of {', '.join(presets)}")
    fitting = {f.name for f in fields(base)}
    if foreign := [name for name in overrides if name not in fitting]:
        raise UserError(f"{cli.flag(foreign[0])} is not of the task {task_name(base)}: leave it out")
    if "corpus" in overrides:
        overrides["corpus"] = corpus_id(overrides["corpus"])
    if "steps" in overrides and overrides.keys().isdisjoint(f"{stage}_steps" for stage in STAGES):
        base = base.with_steps(overrides.pop("steps"))
    return replace(base, **overrides)


def _task(file: ScheduleFile, given: str | None) -> TaskFiles:
    """Returns the files of the task that is named, or of the schedule file's, which must be as they were."""
    if given is not None:
        return read_task_files(given)
    assert isinstance(file.training, TaskConfig)
    task = file.training.task
    try:
        files = read_task_files(task)
    except UserError as error:
        raise UserError(f"the schedule was found with the task {task}: give it with --task ({error})") from None
    if files.sha256 != file.training.task_sha256:
        raise UserError(f"{task} is not as it was when the schedule was found: put it back, or give it with --task")
    return files


def _task_config(
    file: ScheduleFile, files: TaskFiles, overrides: dict[str, Any], settings: dict[str, Setting]
) -> TaskConfig:
    known = {f.name for f in fields(TaskConfig)}
    if foreign := [name for name in overrides if name not in known]:
        raise UserError(f"{cli.flag(foreign[0])} is the GPT's, and {files.name} is a task: leave it out")
    base: dict[str, Any] = asdict(file.training) if isinstance(file.training, TaskConfig) else {}
    d = base | overrides | {"task": files.name, "task_sha256": files.sha256}
    if "steps" not in d:
        raise UserError(f"--task {files.name} needs --steps N: the updates of the run, which run.steps() counts")
    d = {"eval_interval": default_interval(d["steps"])} | d
    return TaskConfig.from_dict(d | {"settings": dict(base.get("settings", {})) | settings})


def _folder(output: Path | None, resume: bool, regularizer: Regularizer, config: RunConfig) -> RunFolder | None:
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


def _what_runs(trainer: Trainable) -> str:
    config = trainer.config
    if isinstance(config, TaskConfig) or trainer.model is None:
        return f"{config.steps:,} steps on {trainer.device.type}, {config.threads} threads"
    n = sum(p.numel() for p in trainer.model.parameters())
    numbers = f"{config.dtype}{', TF32 products' if trainer.device.type == 'cuda' and config.tf32 else ''}"
    compiled = ", compiled" if config.compile else ""
    return f"{n / 1e6:.2f} M parameters on {trainer.device.type}, {config.threads} threads, {numbers}{compiled}"


def command() -> int:
    """Runs the command of the process; returns its exit status, whatever happens."""
    return exit_status(main, ends_with_reader=True)


if __name__ == "__main__":
    sys.exit(command())
