"""One training run on disk: what resumes it, its best weights, its config and its evaluations."""

import errno
import hashlib
import io
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from safetensors.torch import load_model, save_model

from model.gpt import GPT
from study.base.errors import UserError
from study.base.files import PART, atomic_path
from study.base.sealed_files import MANIFEST, check_manifest, write_manifest
from study.corpus import Corpus
from study.training.evaluation_rows import METRICS, METRICS_FILE, Labels, best_row, parse_rows, rows
from study.training.schedule_file import ScheduleFile, read_schedule_file
from study.training.trainer import Progress, Trainer, gpt_config

log = logging.getLogger(__name__)
WEIGHTS, CONFIG = "model.safetensors", "config.yaml"
CHECKPOINT_SHARE = 0.01
"""Of the time, what writing checkpoints may take: a large model's state would stall a fast GPU at every evaluation."""
STATE = "state.pt"
KEPT_CHECKPOINTS = 2
"""Checkpoints to resume from: the newest, and the one before it, should the newest be damaged."""


class Uploads(Protocol):
    """Who is told of each file that a run has written, and removes its folders where the run is kept."""

    def put(self, *paths: Path) -> None: ...

    def remove(self, path: Path) -> None: ...


class KeptHere:
    """The uploads of a run whose folder is where it is kept: there are none."""

    def put(self, *paths: Path) -> None:
        """Uploads nothing."""

    def remove(self, path: Path) -> None:
        """Removes a folder."""
        shutil.rmtree(path, ignore_errors=True)


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
        self._seen: dict[int, dict[str, Any]] = {}  # by step, the evaluations that were in `metrics`
        self._is_mine = False  # whether `metrics` was written in this session

    def run(self, trainer: Trainer, labels: Labels, on_step: Callable[[int], None] | None = None) -> Iterator[Progress]:
        """Trains in this folder, from its latest good checkpoint if it has one, and yields each evaluation.

        An evaluation and the best weights are on disk before it is yielded; checkpoints are as frequent as their share
        of the time allows, and there is one at the end. After a resume the checkpoint's evaluation is yielded again,
        since the caller may have died before it saw it, and so are those after it; of a run that is complete, the last
        one is all that is. When the caller has seen that, `finish` clears up.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        mine = ScheduleFile(schedule=trainer.schedule, training=trainer.config)
        if self.config.exists():
            try:
                theirs = read_schedule_file(self.config)
            except UserError as error:
                log.warning("%s: it is written anew", error)
            else:
                if theirs != mine:
                    raise ValueError(f"{self.path} holds a run with another schedule or training config")
        mine.write(self.config)
        self.uploads.put(self.config)
        for part in [*self.path.glob(f"{PART}*"), *self.resume.glob(f"{PART}*")]:
            shutil.rmtree(part)  # of a process that died
        if self.restore(trainer):
            yield trainer.history[-1]
        elif (done := self.rows()) and done[-1]["outcome"] is not None:
            yield _progress(done)
            return
        saved, seconds = time.perf_counter(), 0.0
        self._seen, self._is_mine = {row["step"]: row for row in self.rows()}, False
        for progress in trainer.run(on_step):
            if (first := self._seen.get(progress.step)) is not None:  # one made again stays as others may have seen it
                progress = trainer.history[-1] = replace(progress, **{name: first[name] for name in METRICS})
            self.save(trainer, labels)
            started = time.perf_counter()
            if started - saved >= seconds / CHECKPOINT_SHARE or progress.step == trainer.config.steps:
                self.checkpoint(trainer)
                saved = time.perf_counter()
                seconds = saved - started
            yield progress

    def save(self, trainer: Trainer, labels: Labels) -> None:
        """Keeps the evaluations so far, and the weights if they are the best ones.

        Evaluations that an earlier session made after these stay too: others have seen them, and they come again.
        """
        progress = trainer.history[-1]
        if progress.best_step == progress.step:
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

    def checkpoint(self, trainer: Trainer) -> None:
        """Keeps all that a continuation needs, right after an evaluation."""
        self.resume.mkdir(exist_ok=True)
        checkpoint = self.resume / f"step-{trainer.step:08d}"
        state = io.BytesIO()  # torch's own writing to a file hides that a disk is full
        torch.save(trainer.state_dict(), state)
        part = self.resume / f"{PART}{secrets.token_hex(8)}"
        part.mkdir()  # with the user's mask: tempfile would close it to a group that shares the study
        try:
            (part / STATE).write_bytes(state.getbuffer())
            write_manifest(part, {STATE: hashlib.sha256(state.getbuffer()).hexdigest()})
            shutil.rmtree(checkpoint, ignore_errors=True)  # of a continuation that was given up
            part.rename(checkpoint)
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        self.uploads.put(checkpoint / STATE, checkpoint / MANIFEST)
        for old in self._checkpoints()[KEPT_CHECKPOINTS:]:
            self.uploads.remove(old)

    def checkpoint_step(self) -> int:
        """Returns the step of the newest checkpoint, -1 if there is none."""
        return max((int(path.name.removeprefix("step-")) for path in self._checkpoints()), default=-1)

    def restore(self, trainer: Trainer) -> bool:
        """Puts a fresh trainer where the latest good checkpoint was taken; False if there is none."""
        for checkpoint in self._checkpoints():
            try:
                check_manifest(checkpoint, STATE)
                state = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
            except (OSError, ValueError, KeyError, TypeError, UnpicklingError) as error:
                reason = str(error).partition("\n")[0][:100]
                log.warning("checkpoint %s is damaged (%s): the one before it is used", checkpoint, reason)
                self.uploads.remove(checkpoint)
                continue
            trainer.load_state_dict(state)
            return True
        return False

    def finish(self) -> None:
        """Removes what only a continuation would need."""
        self.uploads.remove(self.resume)

    def load_best(self, corpus: Corpus) -> GPT:
        """Returns the model with its best weights, in eval mode."""
        config = read_schedule_file(self.config).training
        assert config is not None  # written by `run`
        model = GPT(gpt_config(config, len(corpus.vocab)))
        load_model(model, str(self.weights))
        return model.eval()

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

    def _checkpoints(self) -> list[Path]:
        return sorted(self.resume.glob("step-*"), reverse=True)


def _progress(evaluations: list[dict[str, Any]]) -> Progress:
    """Returns the last of some rows as it was yielded."""
    values = {f.name: evaluations[-1].get(f.name) for f in fields(Progress)}
    return Progress(**values | {"best_step": best_row(evaluations)["step"], "time_ms": 0})  # type: ignore[arg-type]


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row) + "\n").encode()
