"""One training run on disk: its config, its evaluations, its best weights, and its checkpoints while it runs."""

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_model, save_model

from model.gpt import GPT
from study.base.errors import UserError
from study.base.files import PART, atomic_path
from study.corpus import Corpus
from study.training.checkpoints import Checkpoints, KeptHere, Uploads
from study.training.config import TrainingConfig
from study.training.evaluation_rows import METRICS, METRICS_FILE, TASK_METRICS, Labels, best_row, parse_rows, rows
from study.training.fits import gpt_config
from study.training.progress import Progress
from study.training.regularized import parts
from study.training.schedule_file import ScheduleFile, read_schedule_file
from study.training.trainable import Trainable

log = logging.getLogger(__name__)
WEIGHTS, CONFIG = "model.safetensors", "config.yaml"
CHECKPOINT_SHARE = 0.01
"""Of the time, what writing checkpoints may take: a large model's state would stall a fast GPU at every evaluation."""


class RunFolder:
    """The folder of one run.

    `model.safetensors` (the best weights), `config.yaml` (a schedule file), `metrics.jsonl` (one evaluation a line,
    keyed as trials.parquet), and, until the run is over, `resume/step-00000100/` with all that a continuation needs.
    """

    def __init__(self, path: Path, uploads: Uploads | None = None) -> None:
        self.path = path
        self.uploads = uploads or KeptHere()
        self.weights = path / WEIGHTS
        self.config = path / CONFIG
        self.metrics = path / METRICS_FILE
        self.sample = path / "sample.txt"
        self.resume = path / "resume"
        self.checkpoints = Checkpoints(self.resume, self.uploads)
        self._seen: dict[int, dict[str, Any]] = {}  # by step, the evaluations that were in `metrics`
        self._is_mine = False  # whether `metrics` was written in this session

    def run(
        self, trainer: Trainable, labels: Labels, on_step: Callable[[int], None] | None = None
    ) -> Iterator[Progress]:
        """Trains in this folder, from its latest good checkpoint if it has one, and yields each evaluation.

        An evaluation and the best weights are on disk before it is yielded; checkpoints are as frequent as their share
        of the time allows, and there is one at the end. After a resume the checkpoint's evaluation is yielded again,
        since the caller may have died before it saw it, and so are those after it; of a run that is complete, the last
        one is all that is. When the caller has seen that, `finish` clears up.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        mine = ScheduleFile(**parts(trainer.regularizer), training=trainer.config)
        if self.config.exists():
            try:
                theirs = read_schedule_file(self.config)
            except UserError as error:
                log.warning("%s: it is written anew", error)
            else:
                if theirs != mine:
                    raise ValueError(f"{self.path} holds a run with another regularizer or training config")
        mine.write(self.config)
        self.uploads.put(self.config)
        for part in [*self.path.glob(f"{PART}*"), *self.resume.glob(f"{PART}*")]:
            shutil.rmtree(part)  # of a process that died
        if self.checkpoints.restore(trainer):
            yield trainer.history[-1]
        elif (done := self.rows()) and done[-1]["outcome"] is not None:
            yield _progress(done)
            return
        saved, seconds = time.perf_counter(), 0.0
        self._seen, self._is_mine = {row["step"]: row for row in self.rows()}, False
        for progress in trainer.run(on_step):
            if (first := self._seen.get(progress.step)) is not None:  # one made again stays as others may have seen it
                seen = {name: first[name] for name in METRICS} | {TASK_METRICS: first.get(TASK_METRICS, {})}
                progress = trainer.history[-1] = replace(progress, **seen)
            self.save(trainer, labels)
            started = time.perf_counter()
            if started - saved >= seconds / CHECKPOINT_SHARE or progress.step == trainer.config.steps:
                self.checkpoints.write(trainer)
                saved = time.perf_counter()
                seconds = saved - started
            yield progress

    def save(self, trainer: Trainable, labels: Labels) -> None:
        """Keeps the evaluations so far, and the weights if they are the best ones.

        Evaluations that an earlier session made after these stay too: others have seen them, and they come again.
        """
        progress = trainer.history[-1]
        if progress.best_step == progress.step and trainer.model is not None:
            with atomic_path(self.weights) as part:
                save_model(trainer.model, str(part), metadata={"step": str(progress.step)})
            self.uploads.put(self.weights)
        made = rows(trainer, labels)
        later = [row for step, row in sorted(self._seen.items()) if step > progress.step]
        is_new = progress.step not in self._seen
        if not self._is_mine or (is_new and later) or made[-1]["outcome"] is not None:
            with atomic_path(self.metrics) as part:
                part.write_bytes(b"".join(map(_line, made + later)))
            self._is_mine = True
        elif is_new:
            self._append(made[-1])  # where files are replaced, a disk may make each wait until the last is on it
        self.uploads.put(self.metrics)

    def finish(self) -> None:
        """Removes what only a continuation would need."""
        self.uploads.remove(self.resume)

    def load_best(self, corpus: Corpus) -> GPT:
        """Returns the model with its best weights, in eval mode."""
        file = read_schedule_file(self.config)
        assert isinstance(file.training, TrainingConfig)  # written by `run`
        model = GPT(gpt_config(file.training, len(corpus.vocab)), file.family)
        load_model(model, str(self.weights))
        return model.eval()

    def vocab_size(self) -> int:
        """Returns the number of characters that the best weights know."""
        with safe_open(self.weights, framework="pt") as weights:
            names = set(weights.keys())  # of tied weights a file has one
            return int(weights.get_slice("wte.weight" if "wte.weight" in names else "lm_head.weight").get_shape()[0])

    def rows(self) -> list[dict[str, Any]]:
        """Returns the evaluations so far, as `metrics.jsonl` has them; none if there is no such file yet.

        Lines that are damaged are left out, and this is said.
        """
        if not self.metrics.exists():
            return []
        found = []
        for number, row in enumerate(parse_rows(self.metrics.read_bytes().splitlines()), start=1):
            if row is None:
                log.warning("%s is damaged at line %d, which is left out", self.metrics, number)
            else:
                found.append(row)
        return found

    def _append(self, row: dict[str, Any]) -> None:
        with self.metrics.open("ab", buffering=0) as file:
            size, line = file.tell(), _line(row)
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.metrics))
            except OSError:
                file.truncate(size)
                raise


def _progress(evaluations: list[dict[str, Any]]) -> Progress:
    """Returns the last of some rows as it was yielded."""
    values = {f.name: evaluations[-1].get(f.name) for f in fields(Progress)}
    values |= {"best_step": best_row(evaluations)["step"], "time_ms": 0, TASK_METRICS: values[TASK_METRICS] or {}}
    return Progress(**values)  # type: ignore[arg-type]


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row) + "\n").encode()
