"""Whether what a study is given works on every node of the cluster."""

import re
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.base.errors import UserError, first_line
from study.base.uris import redacted, sqlite_path
from study.engine.cluster import alive_nodes
from study.records.storage import Storage

LOCAL_FILESYSTEMS = re.compile(r"ext[234]|xfs|btrfs|zfs|f2fs|overlay|tmpfs|ramfs|bcachefs|jfs|reiserfs|vfat|exfat|ntfs")
ANSWER_SECONDS = 60.0


def check_nodes(storage: Storage, tracking_uri: str) -> None:
    """Looks from every node of a cluster of several at the storage that the study is to use.

    Raises:
        UserError: if the storage or the MLflow store is local to one node, or does not answer on one.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in alive_nodes() if node["NodeID"] != here]
    if not others:
        return
    if sqlite_path(tracking_uri) is not None:
        raise UserError(
            f"tracking URI {redacted(tracking_uri)} is a file, and the Ray cluster has {len(others) + 1} nodes: give "
            "--tracking-uri or MLFLOW_TRACKING_URI, an MLflow server that all of them reach (http://HOST:5000)"
        )
    mark = storage.mark()
    try:
        look = ray.remote(num_cpus=0, max_retries=0)(_look)
        looks = [
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                storage.uri, mark.name
            )
            for node in others
        ]
        for node, answer in zip(others, looks, strict=True):
            where = f"node {node['NodeManagerAddress']}"
            try:
                problem = ray.get(answer, timeout=ANSWER_SECONDS)
            except ray.exceptions.RayError as error:
                raise UserError(f"{where} runs no task of ours ({first_line(error)}): repair it, or stop it") from None
            if problem and storage.is_remote:
                raise UserError(
                    f"--storage {storage.uri} cannot be read on {where} ({problem}): set its credentials in the "
                    "environment there, before `ray start`"
                )
            if problem:
                raise UserError(
                    f"--storage {storage.uri} is a local folder ({where}: {problem}), and the Ray cluster has "
                    f"{len(others) + 1} nodes: give a folder on NFS that all of them mount, or s3://BUCKET/PREFIX"
                )
    finally:
        storage.unmark(mark)


def _look(uri: str, name: str) -> str | None:
    """Returns why this node does not share a storage in which there is a mark, or None if it does."""
    try:
        storage = Storage(uri)
        if not storage.holds(storage.folder / name):
            return "it does not see it"
    except (OSError, UserError) as error:
        return first_line(error)
    mounts = Path("/proc/self/mountinfo")
    if storage.is_remote or not mounts.exists():
        return None
    kind = filesystem(storage.folder.resolve(), mounts.read_text())
    return f"it lies on {kind} there" if kind and LOCAL_FILESYSTEMS.fullmatch(kind) else None


def filesystem(folder: Path, mountinfo: str) -> str | None:
    """Returns the type of the file system that holds a folder, from Linux's table of mounts; None if it is unknown."""
    found: tuple[int, str | None] = (-1, None)
    for line in mountinfo.splitlines():
        fields, _, source = line.partition(" - ")
        mounted = Path(fields.split()[4].replace("\\040", " "))
        if folder.is_relative_to(mounted) and len(mounted.parts) >= found[0]:
            found = (len(mounted.parts), source.split()[0])
    return found[1]
