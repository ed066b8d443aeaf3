"""The only adapter between the training loop and Ray Tune: one trial, as a Tune function."""

import gc
import logging
import os
import platform
import traceback
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from model.schedules import from_dict
from study.config import TrainingConfig
from study.corpus import open_corpus
from study.errors import DivergenceError, disk_error
from study.folder import RunFolder
from study.layout import StudyFolder
from study.messages import CHECKPOINT_STEP, DISK, DIVERGED, FAILED, TRACEBACK, WARNINGS
from study.rows import Labels
from study.training import Trainer


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all trials of a study share.

    Attributes:
        corpus: the tokenised corpus, an Arrow file.
        device: cuda or cpu.
    """

    storage: Path
    study: str
    training: TrainingConfig
    corpus: Path
    device: str

    def folder(self, config: Mapping[str, Any]) -> RunFolder:
        """Returns the folder of a trial."""
        return StudyFolder(self.storage, self.study).trial(config["number"])

    def results(self, config: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """Trains a trial, from where it stands, and yields each evaluation."""
        trainer = Trainer(self.training, from_dict(config["schedule"]), open_corpus(self.corpus), self.device)
        for progress in self.folder(config).run(trainer, Labels(study=self.study, trial=config["number"])):
            yield progress.to_dict()


def run_trial(config: dict[str, Any], job: Job) -> None:
    """Trains one trial and reports each evaluation to Tune.

    What Tune, a dead worker or a lost node starts again goes on from the checkpoint in the trial's folder. An error of
    the training is reported, not raised: Tune would train the same again, with the same result.

    Args:
        config: `number`, the trial's Optuna number, and `schedule`, as a dict.
        job: the rest.
    """
    warnings = _Warnings()
    folder = job.folder(config)
    where = {"node": platform.node(), "gpu_ids": ",".join(map(str, ray.get_gpu_ids())), "pid": os.getpid()}
    try:
        with closing(job.results(config)) as results:  # its memory is free before the `finally` below
            for result in results:
                newest = {CHECKPOINT_STEP: folder.checkpoint_step()}
                tune.report(result | where | newest | {WARNINGS: warnings.taken()})
    except DivergenceError as error:
        tune.report({FAILED: f"diverged: {error}", DIVERGED: True})
    except torch.AcceleratorError:
        raise  # the device is of no more use to this process: Tune is to start another
    except Exception as error:  # any error of the training is this trial's failure, and the study goes on
        if (disk := disk_error(error)) is not None:  # not this trial's: none could go on
            tune.report({DISK: f"{folder.path} on {platform.node()} cannot be written: {disk}"})
            return
        what = "out of memory" if isinstance(error, MemoryError | torch.OutOfMemoryError) else type(error).__name__
        reason = {FAILED: f"{what}: {error}", TRACEBACK: traceback.format_exc()}
        tune.report(reason | {WARNINGS: warnings.taken()})
    finally:
        warnings.close()
        gc.collect()  # the next trial of this worker, and the neighbours on its GPU, want the memory
        torch.cuda.empty_cache()


class _Warnings(logging.Handler):
    """Keeps the warnings of our own code, which are to be read where the study was started."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []
        logging.getLogger("study").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())

    def taken(self) -> list[str]:
        """Returns the warnings since the last time."""
        lines, self._lines = self._lines, []
        return lines

    def close(self) -> None:
        logging.getLogger("study").removeHandler(self)
        super().close()
