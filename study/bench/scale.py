"""`python -m study.bench.scale`: measures what many trials cost the driver of a study.

The trials train nothing, and nodes and GPUs are pretended. Everything else runs for real: Ray, Tune, Optuna, MLflow
and our own code.
"""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study.base.uris import sqlite_uri
from study.bench.reporting import report


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    p = argparse.ArgumentParser(prog="python -m study.bench.scale", description="Measures the driver of a large study.")
    p.add_argument("--trials", type=int, default=300, metavar="N", help="trials with 20 evaluations each; default 300")
    p.add_argument("--nodes", type=int, default=8, metavar="N", help="pretended nodes of 8 GPUs; default 8")
    p.add_argument("--rate", type=float, default=60.0, metavar="X", help="evaluations a second, in all; default 60")
    p.add_argument("--tracking-uri", metavar="URI", help="MLflow store; default a temporary SQLite file")
    args = p.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        uri = args.tracking_uri or sqlite_uri(Path(folder) / "mlflow.db")
        for line in measure(Path(folder), uri, args.trials, args.nodes, args.rate):
            print(line, flush=True)
    return 0


def measure(folder: Path, uri: str, trials: int, nodes: int, rate: float) -> Sequence[str]:
    """Runs a study; returns the lines of a table, one per 100 trials."""

    from dataclasses import replace

    import ray
    from ray.cluster_utils import Cluster
    from rich.console import Console

    from study.engine import RAY_ENVIRONMENT
    from study.engine.cluster import Room, Slots
    from study.engine.display import Display
    from study.engine.optuna_runs import OptunaRuns, ask_known_good_first, open_optuna_study
    from study.engine.recorder import Recorder
    from study.engine.runner import Stop, run_trials
    from study.engine.searcher import RunSearcher
    from study.records.optuna_study import open_storage
    from study.records.storage import Storage
    from study.records.study_layout import StudyConfig, StudyFolder
    from study.records.uploads import UploadQueue
    from study.tracking.writer import StudyWriter
    from study.training.config import PRESETS

    gpus = 8 * nodes
    slots = Slots(count=gpus, cpus=0, gpus=1.0, limit=gpus)
    training = replace(PRESETS["smoke"].training, steps=190)
    config = StudyConfig(
        name=f"scale-{time.time_ns()}", space="dynamic_dropout", preset="smoke", trials=trials, sampler="tpe",
        scheduler="none", seed=1, grace_steps=190, corpus_sha256="", tracking_uri=None, optuna_storage=None,
        device="cpu", training=training,
    )  # fmt: skip
    at = StudyFolder(folder, config.name)
    at.make()
    storage = Storage(str(folder))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(nodes):
        cluster.add_node(num_cpus=8, num_gpus=8, object_store_memory=80_000_000)
    ray.init(
        address=cluster.address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": RAY_ENVIRONMENT},
    )
    console = Console(file=(folder / "display").open("w"), width=120)
    optuna_study = open_optuna_study(open_storage(None, at.journal), config.name, "tpe", 1)
    ask_known_good_first(optuna_study, config.space)
    writer = StudyWriter(uri, config.name, at.path)
    meter = Meter(writer)
    with Display(console, trials, training.steps) as display:
        writer.start_study({}, {}, "")
        recorder = Recorder(at.path, UploadQueue(storage), writer, "the study was stopped")
        source = OptunaRuns(optuna_study, config.space, training, trials)
        searcher = RunSearcher(source, [display, recorder, meter], Room(slots).has_more_than)
        run_trials(searcher, None, _paced(at, gpus / rate), slots, Stop(None), at.ray)
    writer.close(600)
    ray.shutdown()
    cluster.shutdown()
    return meter.lines()


def _paced(folder: Any, interval: float) -> Any:
    from ray import tune

    return tune.with_parameters(report, trials=str(folder.path / "trials"), interval=interval)


class Meter:
    """What the driver has used when each further 100 trials had ended, and how late its metrics were in MLflow."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._rows: list[tuple[int, int, float, float, int, float]] = []
        self._reports = self._ended = 0
        self._note()

    def run_started(self, spec: Any) -> None:
        """Counts nothing."""

    def run_progressed(self, spec: Any, result: Any) -> None:
        """Counts a report."""
        self._reports += 1

    def run_ended(self, spec: Any, ending: Any) -> None:
        """Counts a trial, and notes what was used by then."""
        self._ended += 1
        if self._ended % 100 == 0 or self._ended == 20:
            self._note()

    def lines(self) -> list[str]:
        """Returns the table."""
        out = ["trials  reports  CPU ms a report  the sender's  RSS MB  kB a trial  latest metric s"]
        for (n0, r0, c0, s0, m0, _), (n, r, c, s, m, late) in zip(self._rows, self._rows[1:], strict=False):
            cpu, sender = ((end - begin) / max(1, r - r0) * 1e3 for begin, end in ((c0, c), (s0, s)))
            memory = (m - m0) / max(1, n - n0) / 1e3
            out.append(f"{n:6d} {r:8d} {cpu:16.2f} {sender:13.2f} {m / 1e6:7.0f} {memory:11.0f} {late:16.1f}")
        sent = self._writer.last_round
        return [*out, f"latest metric of all: {sent['latest_s']:.1f} s; {sent['points_sent']} points sent"]

    def _note(self) -> None:
        times = os.times()
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        sent = self._writer.last_round  # of the process that sends to MLflow, which is not the driver's
        sender, late = (sent["cpu_s"], sent["latest_s"]) if sent else (0.0, 0.0)
        self._rows.append((self._ended, self._reports, times.user + times.system, sender, rss, late))


if __name__ == "__main__":
    raise SystemExit(main())
