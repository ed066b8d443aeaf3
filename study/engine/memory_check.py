"""What one trial takes, tried out where trials run."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import ray

from study.base.errors import UserError
from study.engine.cluster import Slots
from study.engine.shared_data import SharedData
from study.training.task_config import RunConfig

if TYPE_CHECKING:  # torch takes seconds to import
    from study.training.trainer import Trainer

log = logging.getLogger(__name__)
CONTEXT_BYTES = 500_000_000
"""What CUDA takes of a GPU for each process, beside the process's own tensors: hundreds of MB, less on older cards."""
FALLBACKS = {
    "compile": "torch.compile does not work here, and trials train without it, slower",
    "cuda_graphs": "CUDA graphs do not work here, and trials train without them, slower",
}
"""The fields that trials can do without, in the order in which they are given up."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one trial takes.

    Attributes:
        on_cuda: the fields of the training config that differ on a GPU, and that work on the one that was tried.
        warnings: a line for each field that does not.
        training_share: of the seconds, what the training steps take; the rest are evaluations.
        kept_bytes: of disk, for good; `running_bytes` more while it runs.
        peak_bytes: of a GPU's memory, 0 on a CPU.
        gpu_bytes: what that GPU has for trials.
    """

    device: str
    on_cuda: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    seconds: float
    training_share: float = 1.0
    kept_bytes: int
    running_bytes: int
    peak_bytes: int = 0
    gpu_bytes: int = 0


def try_out(slots: Slots, training: RunConfig, on_cuda: Mapping[str, Any], data: SharedData) -> Estimate:
    """Trains a few steps where trials will run: says whether torch can use the GPU there, and what a trial takes.

    It compiles as the trials will, which fills the compiler's cache on that machine.

    Args:
        on_cuda: the fields of `training` that differ if it can.

    Raises:
        UserError: if a trial does not fit into a GPU, or the training config does not work here.
    """
    remote = ray.remote(num_cpus=slots.cpus, num_gpus=slots.gpus, max_retries=0)(_try_out)
    training = replace(training, threads=slots.threads)
    answer: Estimate | str | None = ray.get(remote.remote(slots.gpus > 0, training, dict(on_cuda), data))
    if answer is None:
        raise UserError("a trial does not fit into the memory of a GPU here: give another --preset, or --gpus 0")
    if isinstance(answer, str):
        raise UserError(f"a trial cannot be trained here: {answer}")
    for warning in answer.warnings:
        log.warning(warning)
    return answer


def check_memory(estimate: Estimate, trials_per_gpu: int) -> None:
    """Raises UserError if so many trials do not fit into one GPU's memory."""
    each = estimate.peak_bytes + CONTEXT_BYTES
    if estimate.device == "cuda" and trials_per_gpu * each > estimate.gpu_bytes:
        fit = max(1, estimate.gpu_bytes // each)
        raise UserError(
            f"--trials-per-gpu {trials_per_gpu} needs {trials_per_gpu * each / 1e9:.1f} GB of a GPU's memory, "
            f"{each / 1e9:.1f} GB a trial, and there are {estimate.gpu_bytes / 1e9:.1f} GB: give at most {fit}"
        )


def advise_on_sharing(estimate: Estimate, trials_per_gpu: int) -> None:
    """Warns where trials that share a GPU only slow each other down."""
    if trials_per_gpu > 1 and estimate.device == "cuda" and estimate.on_cuda.get("cuda_graphs"):
        log.warning(
            "a trial whose steps are CUDA graphs keeps its GPU busy: %d on one GPU each take about %d times as long, "
            "unless the model is small and NVIDIA's MPS runs (see study/engine/README.md)",
            trials_per_gpu,
            trials_per_gpu,
        )


def _try_out(wants_gpu: bool, training: RunConfig, on_cuda: dict[str, Any], data: SharedData) -> Estimate | str | None:
    """Returns an estimate, the reason why there is none, or None where the GPU's memory does not suffice."""
    import torch

    device = "cuda" if wants_gpu and torch.cuda.is_available() else "cpu"
    warnings = []
    if device == "cpu":
        on_cuda = {}
    elif on_cuda.get("dtype") == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        on_cuda["dtype"] = "float32"
        warnings.append("this GPU has no bfloat16: trials use float32")
    while True:
        try:
            estimate = _measure(replace(training, **on_cuda), data, device)
            return replace(estimate, on_cuda=on_cuda, warnings=tuple(warnings))
        except torch.OutOfMemoryError:
            return None
        except Exception as error:  # compilers and drivers raise what they like; each field is given up in its turn
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            for name, without in FALLBACKS.items():
                if on_cuda.get(name):
                    on_cuda[name] = False
                    warnings.append(f"{without}: {reason}")
                    break
            else:
                return reason if isinstance(error, UserError) else f"{type(error).__name__}: {reason}"


def _measure(training: RunConfig, data: SharedData, device: str, updates: int = 8) -> Estimate:
    import torch

    from model.regularizer import Regularizer
    from model.schedules import Constant
    from study.tasks.data import make_trainer
    from study.tasks.own_trainer import TaskTrainer
    from study.tasks.try_out import try_out as try_out_task
    from study.training.trainer import Trainer

    trainer = make_trainer(training, Regularizer(Constant(0.1)), data.open(), device)
    if isinstance(trainer, TaskTrainer):
        tried = try_out_task(trainer, updates)
        per_step, per_evaluation = tried.seconds_per_step, tried.seconds_per_evaluation
        parameters, checkpoint = tried.parameter_bytes, tried.checkpoint_bytes
    else:
        assert isinstance(trainer, Trainer)
        per_step, per_evaluation = _times(trainer, updates)
        parameters = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
        checkpoint = 3 * parameters  # the optimizer has two moments
    steps_seconds = per_step * training.steps
    seconds = steps_seconds + per_evaluation * (1 + math.ceil(training.steps / training.eval_interval))
    estimate = Estimate(
        device=device,
        seconds=seconds,
        training_share=steps_seconds / seconds if seconds else 1.0,
        kept_bytes=parameters * 2,  # the best weights, here and in MLflow
        running_bytes=3 * checkpoint,  # as many while a new one is written
    )
    if device == "cpu":
        return estimate
    free, _ = torch.cuda.mem_get_info()
    mine = torch.cuda.memory_reserved() + CONTEXT_BYTES
    return replace(estimate, peak_bytes=torch.cuda.max_memory_reserved(), gpu_bytes=free + mine)


def _times(trainer: "Trainer", updates: int) -> tuple[float, float]:
    """Returns the seconds of a step and of an evaluation."""
    if trainer.config.compile:
        trainer.compile()
    seconds = 0.0
    for first, steps in trainer.phases():  # all of them: what takes the most memory is seen too
        measured = min(updates, steps)  # the next phase has another price
        for n in (min(2, measured), measured):  # the first ones warm up
            trainer.step = first
            started = time.perf_counter()
            trainer.train_steps(n)
        seconds += steps * (time.perf_counter() - started) / measured
    per_step = seconds / trainer.config.steps
    started = time.perf_counter()
    trainer.validate()
    return per_step, time.perf_counter() - started
