"""As many whole training runs as fit into a time, for `study.confirm --runs` to judge."""

import json
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import yaml

from study.bench.gpu.report import Report
from study.bench.gpu.setting import Setting

ARMS = {
    "constant-0.2": {"kind": "constant", "rate": 0.2},
    "linear": {"kind": "linear", "initial_rate": 0.2, "final_rate": 0.0},
    "linear-up": {"kind": "linear", "initial_rate": 0.0, "final_rate": 0.2},
}
SPARE_SECONDS = 15.0
"""Between the end of the last run and the end of the time."""


@dataclass
class _Run:
    name: str
    seed: int
    folder: Path
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    started: float


def runs(setting: Setting, report: Report, seconds: float, at_once: int, seeds: int) -> None:
    """Trains all arms with one seed, then with the next; what is not complete in time is left out of runs.tar.gz."""
    end = time.monotonic() + seconds
    folder = setting.output / "whole-runs" / "runs"
    folder.mkdir(parents=True)
    waiting = [(name, seed) for seed in range(1, seeds + 1) for name in ARMS]
    running: list[_Run] = []
    complete, longest = 0, 0.0
    while waiting or running:
        for run in [run for run in running if run.process.poll() is not None]:
            running.remove(run)
            run.log.close()
            took = time.monotonic() - run.started
            longest = max(longest, took)
            complete += run.process.returncode == 0
            _report(report, run, took)
        left = end - time.monotonic()
        if left < SPARE_SECONDS / 2:
            break
        if waiting and len(running) < at_once and left > longest + SPARE_SECONDS:
            running.append(_start(setting, folder, *waiting.pop(0)))
        elif not running:
            break
        time.sleep(0.1)
    for run in running:
        run.process.kill()
        run.process.wait()
        run.folder.rename(folder.parent / run.folder.name)
    report.add("runs_complete", complete)
    with tarfile.open(setting.output / "runs.tar.gz", "w:gz") as archive:
        archive.add(folder, "runs", filter=_without_weights)


def _without_weights(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.name.endswith("model.safetensors") or "/resume" in member.name else member


def _report(report: Report, run: _Run, took: float) -> None:
    if run.process.returncode != 0:
        report.add(f"run_{run.name}_{run.seed}_failed", Path(run.log.name).read_text()[-300:])
        return
    last = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])
    note = f"training {last['train_seconds']:.1f} s, in all {took:.1f} s"
    report.add(f"run_{run.name}_{run.seed}_best_val_loss", float(last["best_val_loss"]), note)


def _start(setting: Setting, folder: Path, name: str, seed: int) -> _Run:
    file = folder.parent / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"format": "dynamic-dropout-schedule/1", "schedule": ARMS[name]}, sort_keys=False))
    output = folder / f"{name}-{seed}"
    log = (folder.parent / f"{name}-{seed}.log").open("wb")
    command = [
        sys.executable, "-m", "study.train", "--schedule", str(file), "--preset", setting.preset,
        "--corpus", setting.corpus_path, "--seed", str(seed), "--threads", "2", "--device", setting.device,
        "--full-evaluation", "--output", str(output),
    ]  # fmt: skip
    environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "2"}
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    return _Run(name, seed, output, process, log, time.monotonic())
