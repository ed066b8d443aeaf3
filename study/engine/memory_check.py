"""What one trial takes, tried out where trials run."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray

from study.base.errors import UserError
from study.engine.cluster import Slots
from study.engine.shared_corpus import SharedCorpus
from study.training.config import TrainingConfig

CONTEXT_BYTES = 500_000_000
"""What CUDA takes of a GPU for each process, beside the process's own tensors: hundreds of MB, less on older cards."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one trial takes.

    Attributes:
        kept_bytes: of disk, for good; `running_bytes` more while it runs.
        peak_bytes: of a GPU's memory, 0 on a CPU.
        gpu_bytes: what that GPU has for trials.
    """

    device: str
    seconds: float
    kept_bytes: int
    running_bytes: int
    peak_bytes: int = 0
    gpu_bytes: int = 0


def try_out(slots: Slots, training: TrainingConfig, on_cuda: Mapping[str, Any], corpus: SharedCorpus) -> Estimate:
    """Trains a few steps where trials will run: says whether torch can use the GPU there, and what a trial takes.

    Args:
        on_cuda: the fields of `training` that differ if it can.

    Raises:
        UserError: if a trial does not fit into a GPU.
    """
    remote = ray.remote(num_cpus=slots.cpus, num_gpus=slots.gpus, max_retries=0)(_try_out)
    training = replace(training, threads=slots.threads)
    estimate: Estimate | None = ray.get(remote.remote(slots.gpus > 0, training, dict(on_cuda), corpus))
    if estimate is None:
        raise UserError("a trial does not fit into the memory of a GPU here: give another --preset, or --gpus 0")
    return estimate


def check_memory(estimate: Estimate, trials_per_gpu: int) -> None:
    """Raises UserError if so many trials do not fit into one GPU's memory."""
    each = estimate.peak_bytes + CONTEXT_BYTES
    if estimate.device == "cuda" and trials_per_gpu * each > estimate.gpu_bytes:
        fit = max(1, estimate.gpu_bytes // each)
        raise UserError(
            f"--trials-per-gpu {trials_per_gpu} needs {trials_per_gpu * each / 1e9:.1f} GB of a GPU's memory, "
            f"{each / 1e9:.1f} GB a trial, and there are {estimate.gpu_bytes / 1e9:.1f} GB: give at most {fit}"
        )


def _try_out(
    wants_gpu: bool, training: TrainingConfig, on_cuda: dict[str, Any], corpus: SharedCorpus, updates: int = 8
) -> Estimate | None:
    import torch

    from model.schedules import Constant
    from study.training.trainer import Trainer

    device = "cuda" if wants_gpu and torch.cuda.is_available() else "cpu"
    if device == "cuda":
        training = replace(training, **on_cuda)
    training = replace(training, compile=False)  # compiling would take longer than all the rest
    try:
        trainer = Trainer(training, Constant(0.1), corpus.open(), device)
        trainer.train_steps(2)
        started = time.perf_counter()
        trainer.train_steps(updates)
        per_step = (time.perf_counter() - started) / updates
        started = time.perf_counter()
        trainer.validate()
        per_evaluation = time.perf_counter() - started
    except torch.OutOfMemoryError:
        return None
    evaluations = 1 + math.ceil(training.steps / training.eval_interval)
    parameters = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    estimate = Estimate(
        device=device,
        seconds=per_step * training.steps + per_evaluation * evaluations,
        kept_bytes=parameters * 2,  # the best weights, here and in MLflow
        running_bytes=parameters * 9,  # up to three checkpoints with the optimizer's two moments
    )
    if device == "cpu":
        return estimate
    free, _ = torch.cuda.mem_get_info()
    mine = torch.cuda.memory_reserved() + CONTEXT_BYTES
    return replace(estimate, peak_bytes=torch.cuda.max_memory_reserved(), gpu_bytes=free + mine)
