"""Judges runs of `study.train --output` as a confirmation judges its own. Needs no Ray and no MLflow."""

import json
import os
import re
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from model.paper import PAPER
from model.regularizer import Regularizer
from model.schedules import Constant, from_dict
from study.base.errors import UserError, first_line
from study.base.names import METRIC
from study.base.regularizers import parts_of
from study.confirm.arms import BASELINE, NO_DROPOUT, PAPER_PREFIX, Arm, canonical_regularizer
from study.confirm.compared_runs import Run, check_alike, read_runs
from study.confirm.decision import seed_sd
from study.confirm.looks import follow_runs
from study.confirm.options import RunsOptions
from study.confirm.power import tell
from study.confirm.results import Results, Row, best_rate, by_seed, run_rows, with_times
from study.confirm.show import show_verdict
from study.confirm.verdict import judge
from study.confirm.verdict_file import read_verdict, write_verdict
from study.confirm.wording import after_look
from study.corpus import Corpus, load_corpus
from study.engine.display import describe
from study.tasks.data import make_trainer
from study.training.built_in import is_plain, unit_of
from study.training.evaluation import windows
from study.training.evaluation_rows import best_row
from study.training.measures import measure_best
from study.training.regularized import parts
from study.training.trainer import Trainer


def judge_runs(paths: Sequence[Path], options: RunsOptions, console: Console) -> int:
    """Judges the runs in some folders or below them; returns the exit status.

    The baseline is the best constant rate. Constant rates with seeds of their own choose it, if there are any, else the
    compared runs do. Raises UserError.
    """
    output = Path(options.output)
    _check_output(output)
    runs = read_runs(paths)
    check_alike(runs, options.corpus)
    seeds = {run.training.seed for run in runs if not run.is_constant_rate} or {r.training.seed for r in runs}
    sweep = [run for run in runs if run.training.seed not in seeds]
    compared = [run for run in runs if run.training.seed in seeds]
    rate, warnings = _choose_baseline(compared, sweep)
    arms = _arms(compared, rate)
    if options.power:
        return _tell_power(compared, len(arms) - 1, options, console)
    names = {canonical_regularizer(arm.regularizer): arm.name for arm in arms}
    looks = None
    if options.until_decided:
        rows = [_rows(run, names[run.simple])[0] for run in compared]
        losses = {arm.name: by_seed(rows, arm.name, METRIC) for arm in arms}
        looks = follow_runs(losses, arms, BASELINE, sorted(seeds), options.plan, options.smallest)
    sha256 = _measure([run for run in compared if run.completed], options, console)
    found = [_rows(run, names[run.simple]) for run in compared]
    results = with_times(
        Results(
            evaluations=[row for _, evaluations in found for row in evaluations],
            runs=[row for row, _ in found],
            sweep=[_rows(run, f"sweep-{run.simple.rate(0):g}")[0] for run in sweep],
        ),
        BASELINE,
    )
    if any(len(run.measures.full_val_loss) == 1 for run in compared):
        warnings.append(
            "runs without study.train --full-evaluation: their full_val_loss is that of the best weights only"
        )
    if len({run.measures.device for run in compared if run.measures.device}) > 1:
        warnings.append("the runs trained on different devices: their times and sampling speeds cannot be compared")
    papers = is_plain(runs[0].training)
    verdict = judge(
        results,
        arms,
        baseline=BASELINE,
        same_as={},
        warnings=warnings,
        corpus_sha256=sha256,
        whole=runs[0].training.val_share == 1,
        before=_earlier(output, arms, seeds),
        sequential=looks,
        unit=unit_of(runs[0].training),
        papers=papers,
    )
    output.mkdir(exist_ok=True)
    results.write(output)
    write_verdict(verdict, output)
    show_verdict(verdict, console)
    if looks is not None:
        console.print(f"\n{after_look(looks)}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"\ntables and verdict.json are in {output}", markup=False, highlight=False, soft_wrap=True)
    return 0 if any(run.completed for run in compared) else 1


def _tell_power(runs: Sequence[Run], arms: int, options: RunsOptions, console: Console) -> int:
    losses = dict[str, dict[int, float | None]]()
    for run in runs:
        if run.completed:
            by_arm = losses.setdefault(describe(run.simple.to_dict()), {})
            by_arm[run.training.seed] = best_row(run.folder.rows())["val_loss"]
    Path(options.output).mkdir(exist_ok=True)
    tell(arms, options.plan, options, seed_sd(losses), Path(options.output), console)
    return 0


def _earlier(output: Path, arms: Sequence[Arm], seeds: Set[int]) -> dict[str, Any] | None:
    """Returns the verdict in the output folder if it is an earlier one on these runs, with fewer seeds."""
    before = read_verdict(output)
    if before is None:
        return None
    then = {json.dumps(parts_of(arm)) for arm in before["arms"]}
    now = {json.dumps(arm.regularizer.to_dict()) for arm in arms}
    return before if then == now and seeds >= set(before["seeds"]) else None


def _check_output(output: Path) -> None:
    parent = output.absolute().parent
    if (output.exists() and not output.is_dir()) or not parent.is_dir():
        raise UserError(f"--output {output} cannot be made: give a folder, in one that exists")
    if not os.access(output if output.exists() else parent, os.W_OK):
        raise UserError(f"--output {output} cannot be written: give another folder")


def _choose_baseline(compared: Sequence[Run], sweep: Sequence[Run]) -> tuple[float, list[str]]:
    """Returns the best constant rate, and warnings about its choice. Raises UserError."""
    constants = [run for run in compared if run.is_constant_rate]
    if not constants:
        raise UserError("--runs has no run with a constant rate to compare schedules with: train one")
    rate = best_rate(_rows(run, "")[0] for run in sweep or constants)
    if rate is None:
        raise UserError("--runs has no completed run with a constant rate: complete one")
    if all(run.simple.schedule != Constant(rate) for run in constants):
        raise UserError(
            f"--runs has the best constant rate, {rate:g}, with other seeds only: train it with the schedules' seeds"
        )
    if sweep or len({run.simple for run in constants}) == 1:
        return rate, []
    return rate, [
        "the compared runs also chose the best constant rate, which favours it a little: train constant rates with "
        "seeds of their own, which then choose it"
    ]


def _measure(runs: Sequence[Run], options: RunsOptions, console: Console) -> str | None:
    """Measures the best weights of runs without measures; returns the text's hash, if known. Raises UserError."""
    known = next((run.measures.corpus_sha256 for run in runs if run.measures.corpus_sha256), None)
    lacking = [run for run in runs if run.measures.test_loss is None]
    if not lacking:
        return known
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch can use no GPU here; give --device cpu")
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    corpus = load_corpus(options.corpus or lacking[0].training.corpus)
    if known not in (None, corpus.sha256):
        raise UserError(
            f"corpus {corpus.path.stem[:12]}... is not the one that runs learned from ({known}): see --corpus"
        )
    speed = len(lacking) == len(runs)  # never mixed with speeds of the machine that trained
    for run in track(lacking, "measuring best weights", console=console, transient=True):
        _measure_run(run, corpus, device, speed)
    return corpus.sha256


def _measure_run(run: Run, corpus: Corpus, device: str, speed: bool) -> None:
    threads = torch.get_num_threads()
    config = replace(run.training, compile=False, threads=threads)
    trainer = make_trainer(config, run.regularizer, corpus, device)
    assert isinstance(trainer, Trainer)
    try:
        measure_best(run.measures, run.folder, trainer, corpus)
    except (OSError, RuntimeError) as error:  # no weights; weights of another shape
        raise UserError(
            f"--runs {run.folder.path}: its weights cannot be measured ({first_line(error)}); see --corpus"
        ) from None
    if not speed:
        run.measures.sampling_tokens_per_second = None
    if trainer.reads_text:
        loss = trainer.mean_loss(windows(corpus.split("full_val"), run.training, trainer.device))
        run.measures.full_val_loss = [(best_row(run.folder.rows())["step"], loss)]


def _arms(runs: Sequence[Run], rate: float) -> list[Arm]:
    """Returns the arms of the runs: the baseline first, then no dropout, then by name."""
    paper = {canonical_regularizer(Regularizer(from_dict(d))): name for name, d in PAPER.items()}
    arms: dict[Regularizer, Arm] = {}
    names: Counter[str] = Counter()
    for run in sorted(runs, key=lambda run: run.words):
        simple, words = run.simple, run.words
        if simple in arms:
            continue
        if simple == Regularizer(Constant(rate)):
            name, meaning = BASELINE, "best constant rate"
        elif simple == Regularizer(Constant(0.0)):
            name, meaning = NO_DROPOUT, "no dropout"
        elif simple in paper:
            name, meaning = PAPER_PREFIX + paper[simple], f"the paper's {paper[simple]} schedule"
        else:
            name, meaning = re.sub(r"[^a-z0-9._-]+", "-", words.lower()).strip("-"), words
        names[name] += 1
        name += f"-{names[name]}" if names[name] > 1 else ""  # two descriptions may give one name
        arms[simple] = Arm(name=name, meaning=meaning, **parts(run.regularizer))
    return sorted(arms.values(), key=lambda arm: (arm.name != BASELINE, arm.name != NO_DROPOUT))


def _rows(run: Run, arm: str) -> tuple[Row, list[Row]]:
    return run_rows(run.folder, run.measures, arm=arm, seed=run.training.seed, regularizer=run.regularizer)
