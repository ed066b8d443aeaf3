"""The only adapter between the training loop and Ray Tune: one trial, as a Tune function."""

import gc
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
from study.errors import DivergenceError
from study.layout import StudyFolder
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

    def results(self, config: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """Trains a trial, from where it stands, and yields each evaluation."""
        folder = StudyFolder(self.storage, self.study).trial(config["number"])
        trainer = Trainer(self.training, from_dict(config["schedule"]), open_corpus(self.corpus), self.device)
        for progress in folder.run(trainer, Labels(study=self.study, trial=config["number"])):
            yield progress.to_dict()


def run_trial(config: dict[str, Any], job: Job) -> None:
    """Trains one trial and reports each evaluation to Tune.

    What Tune, a dead worker or a lost node starts again goes on from the checkpoint in the trial's folder. An error of
    the training is reported, not raised: Tune would train the same again, with the same result.

    Args:
        config: `number`, the trial's Optuna number, and `schedule`, as a dict.
        job: the rest.
    """
    where = {"node": platform.node(), "gpu_ids": ",".join(map(str, ray.get_gpu_ids())), "pid": os.getpid()}
    try:
        with closing(job.results(config)) as results:  # its memory is free before the `finally` below
            for result in results:
                tune.report(result | where)
    except DivergenceError as error:
        tune.report({"failed": f"diverged: {error}"})
    except (MemoryError, torch.OutOfMemoryError) as error:
        tune.report({"failed": f"out of memory: {error}", "traceback": traceback.format_exc()})
    except torch.AcceleratorError:
        raise  # the device is of no more use to this process: Tune is to start another
    except Exception as error:  # any error of the training is this trial's failure, and the study goes on
        tune.report({"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()})
    finally:
        gc.collect()  # the next trial of this worker, and the neighbours on its GPU, want the memory
        torch.cuda.empty_cache()
