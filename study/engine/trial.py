"""The only adapter between the training loop and Ray Tune: one trial, as a Tune function."""

import logging
import os
import platform
import traceback
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.trainable.function_trainable import wrap_function

from model.regularizer import Regularizer
from study.base.errors import DivergenceError, disk_error
from study.corpus import Corpus
from study.engine.device_health import device_works, free_memory
from study.engine.run_spec import RunSpec
from study.engine.shared_data import SharedData
from study.engine.worker_messages import CHECKPOINT_STEP, DISK, DIVERGED, FAILED, TRACEBACK, WARNINGS
from study.records.uploads import UploadQueue, open_run, wait_until_sent
from study.tasks.data import make_trainer
from study.tracking.run_points import TIMES_FILE, write_time
from study.training.evaluation_rows import Labels
from study.training.measures import run_measured
from study.training.run_folder import RunFolder
from study.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all trials of a study share.

    Attributes:
        storage: where the study is kept, a folder or a URI.
        device: cuda or cpu.
    """

    storage: str
    study: str
    data: SharedData
    device: str

    def results(self, spec: RunSpec, folder: RunFolder) -> Generator[dict[str, Any]]:
        """Trains a run, from where it stands, and yields each evaluation, with what was measured at it."""
        data = self.data.open()
        trainer = make_trainer(spec.training, Regularizer.from_dict(spec.regularizer), data, self.device, folder.path)
        labels = Labels(study=self.study, trial=spec.trial)
        if spec.full_evaluation and isinstance(trainer, Trainer) and isinstance(data, Corpus):
            for progress, measured in run_measured(folder, trainer, data, labels):
                yield progress.to_dict() | measured
        else:
            for progress in folder.run(trainer, labels):
                yield progress.to_dict()


def run_trial(config: dict[str, Any], job: Job) -> None:
    """Trains one trial and reports each evaluation to Tune.

    What Tune, a dead worker or a lost node starts again goes on from the checkpoint in the trial's folder. An error of
    the training is reported, not raised: Tune would train the same again, with the same result.

    Args:
        config: `spec`, the run.
        job: the rest.
    """
    spec: RunSpec = config["spec"]
    with open_run(job.storage, job.study, spec.place) as (folder, uploads):
        _run_trial(spec, job, folder, uploads)


def _run_trial(spec: RunSpec, job: Job, folder: RunFolder, uploads: UploadQueue) -> None:
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(spec.training.threads))  # its own cores, not all of them
    warnings = _Warnings()
    where = {"node": platform.node(), "gpu_ids": ",".join(map(str, ray.get_gpu_ids())), "pid": os.getpid()}
    try:
        with closing(job.results(spec, folder)) as results:  # its memory is free before the `finally` below
            for result in results:
                write_time(folder.path, result["step"], result["time_ms"])
                uploads.put(folder.path / TIMES_FILE)
                if result["step"] == spec.training.steps:
                    uploads.flush()  # whoever hears of the end finds all of it in the storage
                newest = {CHECKPOINT_STEP: folder.checkpoints.newest_step()}
                tune.report(result | where | newest | {WARNINGS: warnings.taken()})
    except DivergenceError as error:
        tune.report({FAILED: f"diverged: {error}", DIVERGED: True})
    except torch.AcceleratorError:
        raise  # the device is of no more use to this process: Tune is to start another
    except Exception as error:  # any error of the training is this trial's failure, and the study goes on
        if not device_works():
            raise  # as above
        if (disk := disk_error(error)) is not None:  # not this trial's: none could go on
            tune.report({DISK: f"{folder.path} on {platform.node()} cannot be written: {disk}"})
            return
        what = "out of memory" if isinstance(error, MemoryError | torch.OutOfMemoryError) else type(error).__name__
        reason = {FAILED: f"{what}: {error}", TRACEBACK: traceback.format_exc()}
        tune.report(reason | {WARNINGS: warnings.taken()})
    finally:
        warnings.close()
        free_memory()


def trainable(job: Job) -> type:
    """Returns what Tune runs: `run_trial`, in a process that does not end before the trial's files are sent.

    Tune trains in a thread, of which it does not await the end when it stops a trial.
    """
    function: type = wrap_function(tune.with_parameters(run_trial, job=job))

    class SendingTrainable(function):  # type: ignore[misc]
        def cleanup(self) -> None:
            super().cleanup()
            wait_until_sent()

    return SendingTrainable


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
