"""The Ray cluster that a study runs on, and how its GPUs and CPUs are shared out over the trials."""

import contextlib
import io
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Ray reads these: no output but ours, no files but ours, Ctrl-C is ours, a failed trial's last result may lack the
# metric, and patience with a trial that is still saving when the next one wants its worker (after the default of two
# seconds the study would hang).
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray._private import ray_constants  # noqa: E402

from study.config import TrainingConfig  # noqa: E402
from study.corpus import open_corpus  # noqa: E402
from study.errors import UserError  # noqa: E402

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch, 0 for a Ray that listens on 127.0.0.1 alone, as it does by default where firewalls would ask."""
TOKEN = Path.home() / ".ray" / "auth_token"


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Where trials run: how many at once, and what each owns. A share of a GPU never spans two."""

    count: int
    cpus: float
    gpus: float

    @property
    def resources(self) -> dict[str, float]:
        """What Ray gives each trial."""
        return {"cpu": self.cpus, "gpu": self.gpus}

    @property
    def trials_per_gpu(self) -> int:
        """How many trials share a GPU; 1 on the CPU, where each has its own cores."""
        return round(1 / self.gpus) if self.gpus else 1

    @property
    def threads(self) -> int:
        """CPU threads that a trial may use."""
        return max(1, int(self.cpus))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one trial takes, tried out where trials run."""

    device: str
    seconds: float
    kept_bytes: int
    running_bytes: int


def start_ray(address: str | None) -> None:
    """Joins the cluster at `address` or RAY_ADDRESS, or starts a local Ray. Raises UserError if none answers."""
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        _keep_to_loopback()
    old_umask = os.umask(0o077)  # Ray's token file is made now
    try:
        # Without an address a plain init would join any Ray that it finds a trace of, dead ones too.
        more: dict[str, Any] = {"runtime_env": {"env_vars": ENVIRONMENT}} if address else {"include_dashboard": False}
        with contextlib.redirect_stderr(io.StringIO()):
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
                **more,
            )
    except Exception as error:  # whatever Ray raises, it is the address that does not work
        if not address:
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"no Ray cluster can be joined at {address} ({reason}): check --address") from None
    finally:
        os.umask(old_umask)
        with contextlib.suppress(OSError):  # there is none, or it is another user's
            TOKEN.chmod(0o600)  # an older one may have been made with Ray's own mode, for all to read


def stop_ray() -> None:
    """Ends the local Ray, or leaves the cluster; by itself that comes with the process's end, and takes it longer."""
    ray.shutdown()


def _keep_to_loopback() -> None:
    if os.environ.setdefault(LOOPBACK, "0") == "0":  # Ray's processes read it when they start
        ray_constants.ENABLE_RAY_CLUSTER = False  # as this one did before


def cluster_gpus() -> int:
    """Returns the GPUs that Ray sees."""
    return int(ray.cluster_resources().get("GPU", 0))


def share_out(gpus: int, trials_per_gpu: int, trials: int) -> Slots:
    """Shares GPUs, or with none of them the CPU cores, out over trials.

    A trial gets an equal part of its node's cores, fractions of one where there are more trials than cores.

    Raises:
        UserError: if the cluster has fewer GPUs than asked for.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if gpus == 0:
        cores = sum(int(node.get("CPU", 0)) for node in nodes)
        return Slots(count=max(1, min(cores, trials)), cpus=1 if cores else 0, gpus=0)
    if gpus > cluster_gpus():
        raise UserError(
            f"--gpus {gpus}: the Ray cluster has {cluster_gpus()}; give at most that many, or 0 for the CPU"
        )
    share = 1.0 if trials_per_gpu == 1 else math.floor(1e4 / trials_per_gpu) / 1e4  # Ray counts in ten thousandths
    cpus = min(node.get("CPU", 0) / (node["GPU"] * trials_per_gpu) for node in nodes if node.get("GPU"))
    cpus = float(math.floor(cpus)) if cpus >= 1 else math.floor(cpus * 100) / 100
    return Slots(count=min(gpus * trials_per_gpu, trials), cpus=cpus, gpus=share)


def try_out(slots: Slots, training: TrainingConfig, on_cuda: Mapping[str, Any], corpus: Path) -> Estimate:
    """Trains a few steps where trials will run: says whether torch can use the GPU there, and what a trial takes.

    Args:
        on_cuda: the fields of `training` that differ if it can.
    """
    remote = ray.remote(num_cpus=slots.cpus, num_gpus=slots.gpus, max_retries=0)(_try_out)
    training = replace(training, threads=slots.threads)
    estimate: Estimate = ray.get(remote.remote(slots.gpus > 0, training, dict(on_cuda), corpus))
    return estimate


def _try_out(
    wants_gpu: bool, training: TrainingConfig, on_cuda: dict[str, Any], corpus: Path, updates: int = 8
) -> Estimate:
    import torch

    from model.schedules import Constant
    from study.training import Trainer

    device = "cuda" if wants_gpu and torch.cuda.is_available() else "cpu"
    if device == "cuda":
        training = replace(training, **on_cuda)
    training = replace(training, compile=False)  # compiling would take longer than all the rest
    trainer = Trainer(training, Constant(0.1), open_corpus(corpus), device)
    trainer.train_steps(2)
    started = time.perf_counter()
    trainer.train_steps(updates)
    per_step = (time.perf_counter() - started) / updates
    started = time.perf_counter()
    trainer.validate()
    per_evaluation = time.perf_counter() - started
    evaluations = 1 + math.ceil(training.steps / training.eval_interval)
    parameters = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    return Estimate(
        device=device,
        seconds=per_step * training.steps + per_evaluation * evaluations,
        kept_bytes=parameters * 2,  # the best weights, here and in MLflow
        running_bytes=parameters * 9,  # up to three checkpoints with the optimizer's two moments
    )
