"""The Ray cluster that a study runs on, and how its GPUs and CPUs are shared out over the trials."""

import contextlib
import io
import logging
import math
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

import model
import search_spaces
import study
from study.base.errors import UserError, WorldError
from study.base.files import cache_folder
from study.base.signals import children_without_hangup, handlers_kept
from study.engine import RAY_ENVIRONMENT

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch, 0 for a Ray that listens on 127.0.0.1 alone, as it does by default where firewalls would ask."""
TOKEN = Path(".ray", "auth_token")
ANSWER_SECONDS = 5.0
"""What a cluster's head has to accept a connection."""


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Where trials run: how many at once, and what each owns. A share of a GPU never spans two.

    Attributes:
        count: how many run at once when the study starts.
        limit: how many may when nodes have joined the cluster; None for as many as it then has room for.
    """

    count: int
    cpus: float
    gpus: float
    limit: int | None = None

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

    def on(self, node: Mapping[str, float]) -> int:
        """Returns how many trials fit on a node with these resources."""
        counts = [int(node.get("GPU", 0)) * int(1 / self.gpus)] if self.gpus else []
        counts += [int(node.get("CPU", 0) / self.cpus + 1e-6)] if self.cpus else []
        return min(counts, default=0)


def start_ray(address: str | None) -> None:
    """Joins the cluster at `address` or RAY_ADDRESS, or starts a local Ray.

    Raises:
        UserError: if no cluster answers at the address.
        WorldError: if a local Ray does not start.
    """
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _check_address(address)
    else:
        _keep_to_loopback()
    _keep_token(make=not address)
    try:
        # Without an address a plain init would join any Ray that it finds a trace of, dead ones too.
        more: dict[str, Any] = {"runtime_env": _runtime_env()} if address else {"include_dashboard": False}
        with contextlib.redirect_stderr(io.StringIO()), children_without_hangup(), handlers_kept(), _away(address):
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
                **more,
            )
    except SystemExit:  # by Ray's own handler of SIGTERM
        raise KeyboardInterrupt from None
    except Exception as error:  # whatever Ray raises, it is the address that does not work, or the machine
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if not address:
            raise WorldError(f"Ray does not start here ({reason}): try again when the machine is less busy") from None
        raise _no_cluster(address, reason) from None


def _check_address(address: str) -> None:
    """Raises UserError if nothing listens at an address HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:  # auto, local, or the name of a plug-in: Ray knows
        return
    if not port.isdecimal():
        raise _no_cluster(address, "it has no port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from None


def _no_cluster(address: str, reason: str) -> UserError:
    return UserError(
        f"no Ray cluster can be joined at {address} ({reason}): correct --address or RAY_ADDRESS, or unset them for a "
        "local Ray"
    )


def _keep_token(*, make: bool) -> None:
    """Closes the file with the token that Ray asks of everyone to other users, and makes it first if that is wished.

    Ray would make it for all to read.
    """
    if not make:
        with contextlib.suppress(OSError, RuntimeError):  # there is none, or it is another user's
            (Path.home() / TOKEN).chmod(0o600)
        return
    if {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return  # the user has a token elsewhere, or wants none
    try:
        _write_token(Path.home() / TOKEN)
    except (OSError, RuntimeError):  # there is no home, or it cannot be written
        path = cache_folder() / "ray_auth_token"
        _write_token(path)
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def _write_token(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.chmod(0o600)  # Ray may have made it
        return
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder, path.name)
        part.touch(0o600)
        part.write_text(secrets.token_hex(32), encoding="ascii")
        with contextlib.suppress(FileExistsError):  # another study has just made it
            path.hardlink_to(part)


@contextlib.contextmanager
def _away(address: str | None) -> Iterator[None]:
    """Keeps the user's folder out of the workers' path of imports, in which Ray puts the folder of its start first.

    There, a file model.py or study.py would be imported instead of ours. A local Ray starts where our code lies. The
    workers of a cluster get our code from here, and may have another version of it at the same place.
    """
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir("/" if address else Path(study.__path__[0]).parent)
        yield
    finally:
        os.fchdir(here)
        os.close(here)


def stop_ray() -> None:
    """Ends the local Ray, or leaves the cluster; by itself that comes with the process's end, and takes it longer."""
    ray.shutdown()


def _keep_to_loopback() -> None:
    if os.environ.setdefault(LOOPBACK, "0") == "0":  # Ray's processes read it when they start
        ray_constants.ENABLE_RAY_CLUSTER = False  # as this one did before


def cluster_gpus() -> int:
    """Returns the GPUs that Ray sees."""
    return int(ray.cluster_resources().get("GPU", 0))


def alive_nodes() -> list[dict[str, Any]]:
    """Returns the nodes of the cluster that are alive, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def share_out(gpus: int, trials_per_gpu: int, trials: int, *, fixed: bool, alone: bool = False) -> Slots:
    """Shares GPUs, or with none of them the CPU cores, out over trials.

    A trial gets an equal part of its node's cores, fractions of one where there are more trials than cores.

    Args:
        fixed: whether the study takes so many GPUs and no more, should nodes with others join.
        alone: whether trials on the CPU run one after another. At once, they would slow each other down, although each
            has its own core: cores share memory and caches.

    Raises:
        UserError: if the cluster has fewer GPUs than asked for.
    """
    resources = [node["Resources"] for node in alive_nodes()]
    if gpus == 0 and alone:
        return Slots(count=1, cpus=1, gpus=0, limit=1)
    if gpus == 0:
        cores = sum(int(node.get("CPU", 0)) for node in resources)
        return Slots(count=max(1, min(cores, trials)), cpus=1 if cores else 0, gpus=0)
    if gpus > cluster_gpus():
        raise UserError(
            f"--gpus {gpus}: the Ray cluster has {cluster_gpus()}; give at most that many, or 0 for the CPU"
        )
    share = 1.0 if trials_per_gpu == 1 else math.floor(1e4 / trials_per_gpu) / 1e4  # Ray counts in ten thousandths
    cpus = min(node.get("CPU", 0) / (node["GPU"] * trials_per_gpu) for node in resources if node.get("GPU"))
    cpus = float(math.floor(cpus)) if cpus >= 1 else math.floor(cpus * 100) / 100
    limit = gpus * trials_per_gpu
    return Slots(count=min(limit, trials), cpus=cpus, gpus=share, limit=limit if fixed else None)


class Room:
    """How many trials may run at once in the cluster as it is now: nodes are lost, and others join."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._seen, self._count = -math.inf, 0

    def has_more_than(self, running: int) -> bool:
        """Whether one more may begin where so many run; looked up at most once a second."""
        if time.monotonic() - self._seen > 1:
            self._count = sum(self._slots.on(node["Resources"]) for node in alive_nodes())
            self._seen = time.monotonic()
        return running < (self._count if self._slots.limit is None else min(self._count, self._slots.limit))


def _runtime_env() -> dict[str, Any]:
    """What the workers of a cluster get from here: our code, and what Ray reads. They need our dependencies alone."""
    packages = [str(Path(package.__path__[0])) for package in (model, search_spaces, study)]
    return {"env_vars": RAY_ENVIRONMENT, "py_modules": packages, "excludes": ["__pycache__"]}
