"""The start of a session's machines: Ray, its nodes, the slots for runs, and what a run takes there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from study.base.errors import UserError
from study.engine.cluster import Slots, cluster_gpus, share_out, start_ray
from study.engine.memory_check import Estimate, advise_on_sharing, check_memory, try_out
from study.engine.node_checks import check_nodes
from study.engine.shared_data import SharedData, share
from study.records.storage import Storage
from study.tasks.data import Data
from study.training.task_config import RunConfig


class MachineOptions(Protocol):
    """The flags of a command that say where runs are trained; None for the default that their help states."""

    @property
    def address(self) -> str | None:
        """Of a Ray cluster."""

    @property
    def gpus(self) -> int | None:
        """How many the session may use."""

    @property
    def trials_per_gpu(self) -> int:
        """How many runs share a GPU."""


@dataclass(frozen=True)
class Machines:
    """Where runs are trained, and what one run takes there."""

    slots: Slots
    data: SharedData
    estimate: Estimate


def start_machines(options: MachineOptions, storage: Storage, uri: str, device: str | None) -> int:
    """Starts Ray and checks its nodes; returns how many GPUs the session uses.

    Args:
        uri: the MLflow store's.
        device: of a study that goes on; None for a new study.

    Raises:
        UserError: if a node cannot be used.
    """
    start_ray(options.address)
    check_nodes(storage, uri)
    if options.gpus is not None:
        return options.gpus
    return 0 if device == "cpu" else cluster_gpus()


def try_machines(
    options: MachineOptions,
    gpus: int,
    runs: int,
    training: RunConfig,
    on_cuda: Mapping[str, Any],
    data: Data,
    *,
    alone: bool = False,
) -> Machines:
    """Shares the machines out over runs, and trains a few steps there.

    Args:
        on_cuda: the fields of `training` that differ on a GPU.
        alone: whether runs on the CPU are trained one after another, so that their times can be compared.

    Raises:
        UserError: if there are fewer GPUs, or too little memory.
    """
    slots = share_out(gpus, options.trials_per_gpu, runs, fixed=options.gpus is not None, alone=alone)
    shared = share(data)
    estimate = try_out(slots, training, on_cuda, shared)
    check_memory(estimate, options.trials_per_gpu)
    advise_on_sharing(estimate, options.trials_per_gpu)
    return Machines(slots, shared, estimate)


def check_device(study: str, device: str, estimate: Estimate) -> None:
    """Raises UserError if a study that trained on one device would go on with another one."""
    if estimate.device != device:
        raise UserError(f"study {study} trains on {device}, and here is {estimate.device} only: see --gpus")
