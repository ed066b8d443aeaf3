"""Compares a whole study with a plain search over the same schedules, and measures the pauses between trials."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median, stdev

import pyarrow.parquet as pq
import torch

from model.schedules import Schedule, from_dict
from study.base.uris import sqlite_uri
from study.bench.contestants import PlainGPT
from study.corpus import Corpus
from study.training.config import PRESETS, TrainingConfig
from study.training.evaluation import mean_loss
from study.training.learning_rate import learning_rate
from study.training.trainer import Trainer

TRIALS = 8
SEEDS = (101, 102, 103)
PLAIN_EVALUATION_BATCHES = 200
"""Batches of each split, as in nanoGPT."""


@dataclass(frozen=True)
class StudyResult:
    """A study's wall time, schedules by trial, best loss with its schedule, and pauses between trials."""

    seconds: float
    schedules: list[dict[str, object]]
    best_val_loss: float
    best: str
    gaps: list[float]


def bench_studies(say: Callable[[str], None], corpus: Corpus, steps: int) -> dict[str, float]:
    """Runs the laptop study and the plain search over the same schedules, and compares their times and results.

    One seed's luck is part of each best loss, so both best schedules train again on other seeds.
    """
    ours = run_study(steps)
    say(f"study: {TRIALS} trials of {steps} steps in {ours.seconds:.0f} s, best {ours.best_val_loss:.4f}, {ours.best}")
    say(f"gap between two trials on a slot: median {median(ours.gaps):.2f} s, longest {max(ours.gaps):.2f} s")
    config = replace(PRESETS["laptop"].training, steps=steps, threads=2)
    started = time.perf_counter()
    untimed, results = 0.0, []
    for schedule in ours.schedules:
        loss, seconds = train_plainly(config, from_dict(schedule), corpus)
        untimed += seconds
        results.append((loss, json.dumps(schedule)))
    plain_seconds = time.perf_counter() - started - untimed
    best_loss, best = min(results)
    say(f"the plain search over the same in {plain_seconds:.0f} s, best {best_loss:.4f}, {best}")
    again = {name: over_seeds(schedule, config, corpus) for name, schedule in (("study", ours.best), ("plain", best))}
    for name, losses in again.items():
        say(f"best schedule of the {name} search over {len(SEEDS)} seeds: {mean(losses):.4f} +- {stdev(losses):.4f}")
    return {
        "study_vs_plain": ours.seconds / plain_seconds,
        "study_seconds": ours.seconds,
        "plain_search_seconds": plain_seconds,
        "study_best_val_loss": ours.best_val_loss,
        "plain_best_val_loss": best_loss,
        "study_best_over_seeds": mean(again["study"]),
        "plain_best_over_seeds": mean(again["plain"]),
        "seed_sd": stdev(again["plain"]),
        "trial_gap_seconds": max(ours.gaps),
    }


def over_seeds(schedule: str, config: TrainingConfig, corpus: Corpus) -> list[float]:
    """Trains a schedule, given as JSON, on each of SEEDS with our own training; returns the best validation losses."""
    trainers = (Trainer(replace(config, seed=seed), from_dict(json.loads(schedule)), corpus) for seed in SEEDS)
    return [min(p.val_loss for p in trainer.run()) for trainer in trainers]


def run_study(steps: int) -> StudyResult:
    """Runs the laptop study in a temporary folder, as a user would, and reads its results."""
    from study.tracking.reader import study_times  # mlflow is missing on a bare training machine

    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            "--preset",
            "laptop",
            "--gpus",
            "0",
            "--trials",
            str(TRIALS),
            "--steps",
            str(steps),
            "--name",
            "bench",
        ]
        uri = sqlite_uri(Path(folder).absolute() / "mlflow.db")
        command = [sys.executable, "-m", "study.search", *arguments, "--tracking-uri", uri]
        started = time.perf_counter()
        subprocess.run([*command, "--storage", folder], check=True, capture_output=True)
        seconds = time.perf_counter() - started
        rows = pq.read_table(Path(folder) / "bench" / "trials.parquet").to_pylist()
        times = study_times(uri, "bench")
    completed = [row for row in rows if row["outcome"] == "completed"]
    best = min(completed, key=lambda row: row["best_val_loss"])
    schedules = {row["trial"]: json.loads(row["schedule"]) for row in rows}
    return StudyResult(
        seconds=seconds,
        schedules=[schedules[number] for number in sorted(schedules)],
        best_val_loss=best["best_val_loss"],
        best=best["schedule"],
        gaps=gaps(times),
    )


def gaps(times: list[tuple[float, float, float]]) -> list[float]:
    """Returns the seconds from the end of a trial to the first evaluation of the next trial on its slot.

    Args:
        times: the start, first evaluation and end of each trial, in seconds.
    """
    ends = sorted(end for _, _, end in times)
    waits = []
    for began, first, _ in sorted(times):
        before = [end for end in ends if end <= began]
        if before:
            waits.append(first - before[-1])
    return waits


def train_plainly(config: TrainingConfig, schedule: Schedule, corpus: Corpus) -> tuple[float, float]:
    """Trains one trial as a 300-line script does: nn.Dropout, all cores, evaluation on random batches.

    It starts from our weights and reads our batches, so that only the masks differ by chance. Returns the best loss on
    the study's validation windows, and the seconds that this loss took, which the script would not have spent.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    judge = Trainer(config, schedule, corpus)  # for its windows and first weights only
    model = PlainGPT(judge.model.config, 0.0).load(judge.model)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(config.beta1, config.beta2), weight_decay=config.weight_decay
    )
    generators = {name: torch.Generator().manual_seed(config.seed) for name in ("steps", "evaluation")}
    tokens = {name: torch.from_numpy(corpus.split(name).astype("int64")) for name in ("train", "val")}
    tokens["train"] = tokens["train"][: config.train_chars or None]
    best, untimed = float("inf"), 0.0

    def batch(split: str, use: str) -> tuple[torch.Tensor, torch.Tensor]:
        data = tokens[split]
        starts = torch.randint(len(data) - config.block_size, (config.batch_size,), generator=generators[use])
        x = torch.stack([data[i : i + config.block_size] for i in starts])
        return x, torch.stack([data[i + 1 : i + 1 + config.block_size] for i in starts])

    for step in range(config.steps + 1):
        if step % config.eval_interval == 0:
            model.eval()
            with torch.no_grad():
                losses = {
                    split: [model(*batch(split, "evaluation")) for _ in range(PLAIN_EVALUATION_BATCHES)]
                    for split in ("train", "val")
                }
            model.train()
            schedule.observe(float(torch.stack(losses["val"]).mean()))
            started = time.perf_counter()
            model.eval()
            best = min(best, mean_loss(model, judge.val_windows, config.batch_size))
            model.train()
            untimed += time.perf_counter() - started
        model.set_rate(schedule.rate(min(1.0, step / config.steps)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        loss = model(*batch("train", "steps"))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
    return best, untimed
