"""From the command line of a confirmation to all that it needs; mistakes are found before anything is made."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from model.schedules import Constant
from study.base.cli import flag
from study.base.errors import UserError
from study.base.names import ARM, SEED
from study.base.sealed_files import copy_of, read_kept, write_kept
from study.confirm.arms import SWEEP_RATES, Arm, CompletedTrial, arms, best_of_study, most_arms
from study.confirm.controls import best_of_families, family_arms
from study.confirm.options import MOST_SEEDS, ConfirmOptions
from study.engine.run_spec import RunSpec
from study.records.downloads import download_files
from study.records.lock import StudyLock
from study.records.replicates import losses_in_table
from study.records.storage import Storage
from study.records.study_layout import StudyConfig, StudyFolder
from study.records.uploads import UploadQueue
from study.training.evaluation_rows import read_parquet
from study.training.measures_file import FILE
from study.training.regularized import Regularized, parts
from study.training.run_folder import RunFolder
from study.training.task_config import RunConfig, read_config

RUN_FILES = frozenset({"metrics.jsonl", FILE})
"""What a driver reads of a run; the weights go from the storage to MLflow alone."""
SWEEP_OFFSET = MOST_SEEDS
"""Seeds of the sweep begin this far after those of the arms."""


@dataclass(frozen=True, kw_only=True)
class Run(Regularized):
    """One training run of a confirmation."""

    arm: str
    seed: int
    folder: RunFolder

    @property
    def name(self) -> str:
        """What tells it apart from the others, in MLflow too."""
        return f"{self.arm}/seed-{self.seed}"

    def spec(self, root: Path, training: RunConfig) -> RunSpec:
        """Returns the run as the engine needs it; `root` is the study's folder."""
        return RunSpec(
            key=self.name,
            title=self.name,
            name=f"{self.arm}-seed-{self.seed}",
            regularizer=self.regularizer.to_dict(),
            training=replace(training, seed=self.seed),
            place=self.folder.path.relative_to(root),
            tags={ARM: self.arm, SEED: str(self.seed)},
            full_evaluation=True,
        )


@dataclass(frozen=True, kw_only=True)
class ConfirmationConfig:
    """What a confirmation compares: kept in its folder when it is begun, since the study may go on.

    Attributes:
        top: how many of the study's best were asked for, and `found`: those that there are.
        families: the best of each family, if the study has more than schedules of standard dropout.
        seeds: of each arm; more of them continue a confirmation. With looks, the most of them.
        looks: the seeds of each look of --until-decided; empty without it.
        smallest: the smallest gain that matters, in nats; None for one seed SD.
        tracking_uri: where MLflow was last; hidden if it holds a password.
        packed: whether runs have shared a GPU, so that their times mean nothing.
        training: of all runs, but for the seed.
    """

    study: str
    corpus_sha256: str
    device: str
    top: int
    seeds: int
    sweep_seeds: int
    found: tuple[CompletedTrial, ...]
    tracking_uri: str | None
    packed: bool
    training: RunConfig
    families: tuple[CompletedTrial, ...] = ()
    looks: tuple[int, ...] = ()
    smallest: float | None = None

    def to_yaml(self) -> str:
        """Returns the text of its file."""
        d = {f.name: getattr(self, f.name) for f in fields(self)}
        d |= {name: [found.to_dict() for found in getattr(self, name)] for name in _TRIALS}
        d |= {"training": asdict(self.training), "looks": list(self.looks)}
        return yaml.safe_dump(d, sort_keys=False, width=120)


_TRIALS = ("found", "families")
"""The fields of a ConfirmationConfig that hold trials; confirmations of earlier versions lack the second."""


class ConfirmationFolder:
    """The folder of a study's confirmation, in the study's."""

    def __init__(self, study: StudyFolder) -> None:
        self.path = study.path / "confirmation"
        self.task = study.task
        self.title = f"the confirmation of study {study.path.name}"
        self.lock = self.path / "study.lock"
        self.config = self.path / "confirmation.yaml"
        self.ray = self.path / "ray"

    def run(self, arm: str, seed: int) -> RunFolder:
        """Returns the folder of an arm's run."""
        return RunFolder(self.path / "runs" / arm / f"seed-{seed}")

    def sweep(self, rate: float, seed: int) -> RunFolder:
        """Returns the folder of a run of the constant rate's sweep."""
        return RunFolder(self.path / "sweep" / f"constant-{rate:g}" / f"seed-{seed}")

    def uploads(self, storage: Storage) -> UploadQueue:
        """Returns the queue of its uploads to an object store."""
        return UploadQueue(storage)

    def make(self) -> None:
        """Makes the folder. Raises UserError if it cannot be made."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path} cannot be made ({error.strerror}): see --storage") from None

    def write_config(self, config: ConfirmationConfig) -> None:
        """Writes the config, whole or not at all. Raises UserError if it cannot be written."""
        try:
            write_kept(self.config, config.to_yaml())
        except OSError as error:
            raise UserError(f"{self.config} cannot be written ({error.strerror}): see --storage") from None

    def read_config(self) -> ConfirmationConfig | None:
        """Reads the config of a confirmation that was begun; None if there is none. Raises UserError."""
        if not self.config.exists():
            return None
        try:
            d: dict[str, Any] = yaml.safe_load(read_kept(self.config))
            d |= {name: tuple(map(CompletedTrial.from_dict, d.get(name, ()))) for name in _TRIALS}
            more = {"training": read_config(d["training"]), "looks": tuple(d.get("looks", ()))}
            return ConfirmationConfig(**d | more)
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.config} is damaged ({error}): remove its folder to begin anew") from None


def fetch(storage: Storage, study: StudyFolder, folder: ConfirmationFolder) -> StudyLock | None:
    """Copies what a driver has to know of a study and its confirmation here, from an object store.

    Returns the lock that the copy then has, None if there is none. Raises UserError if there is no such study, or
    another session confirms it.
    """
    if not storage.is_remote:
        return None
    if not storage.holds(study.config):
        raise UserError(f"there is no study {study.path.name} in {storage.uri}: see --study and --storage")
    folder.make()
    lock = StudyLock(folder.lock, folder.title, storage)
    for name in ("runs", "sweep", "ray"):
        shutil.rmtree(folder.path / name, ignore_errors=True)
    own = (folder.config, copy_of(folder.config), folder.path / "verdict.json")
    wanted = [study.config, copy_of(study.config), study.table, study.replicates, *storage.list(study.task)]
    download_files(storage, [*wanted, *own])
    fetch_runs(storage, folder)
    for path in storage.list(folder.path):  # a run of which a checkpoint is left is not over
        if "resume" in path.parts:
            path.parent.parent.mkdir(exist_ok=True)
    return lock


def fetch_runs(storage: Storage, folder: ConfirmationFolder) -> None:
    """Copies the evaluations and measures of all runs here, from an object store."""
    if storage.is_remote:
        storage.fetch_all(path for path in storage.list(folder.path) if path.name in RUN_FILES)


def read_study(folder: StudyFolder) -> tuple[StudyConfig, list[CompletedTrial]]:
    """Returns a study's config and its completed trials, best first. Raises UserError if it has no completed one."""
    name = folder.path.name
    if not folder.config.exists():
        raise UserError(f"there is no study in {folder.path}: see --study and --storage")
    config = folder.read_config()
    if not folder.table.exists():
        raise UserError(f"study {name} has no {folder.table.name} yet: let it end, if need be with --resume")
    try:
        more = read_parquet(folder.replicates) if folder.replicates.exists() else []
        best = best_of_study(read_parquet(folder.table), replicates=losses_in_table(more))
    except (OSError, pa.ArrowException, ValueError) as error:  # ValueError: a regularizer in it
        tables = f"{folder.table} or {folder.replicates.name}" if folder.replicates.exists() else folder.table
        raise UserError(f"{tables} is damaged ({error}): study.search --resume writes it again") from None
    if not best:
        raise UserError(f"study {name} has no completed trial: there is nothing to confirm")
    return config, best


def make_config(
    options: ConfirmOptions, given: Mapping[str, Any], study: StudyFolder, folder: ConfirmationFolder
) -> ConfirmationConfig:
    """Returns the config of a new confirmation, or of the one that was begun, with more seeds if they are asked for.

    Args:
        given: those of the options that stand on the command line.

    Raises:
        UserError: if there is nothing to confirm, or the command line contradicts the confirmation that was begun.
    """
    old = folder.read_config()
    if old is not None:
        for name in ("top", "sweep_seeds", "seeds"):
            was, now = getattr(old, name), given.get(name, getattr(old, name))
            if now < was or (now != was and name != "seeds"):
                raise UserError(
                    f"{flag(name)} {now} contradicts the confirmation in {folder.path}, which has {was}: leave it out, "
                    "or move that folder away to begin anew"
                )
        options.check_looks(given, old.looks, old.smallest, folder.path)
        return replace(old, seeds=given.get("seeds", old.seeds), packed=old.packed or options.trials_per_gpu > 1)
    config, best = read_study(study)
    if not os.access(study.path, os.W_OK):
        raise UserError(f"{study.path} cannot be written: see --storage")
    return ConfirmationConfig(
        study=config.name,
        corpus_sha256=config.corpus_sha256,
        device=config.device,
        top=options.top,
        seeds=options.plan[-1] if options.until_decided else options.seeds,
        looks=options.plan if options.until_decided else (),
        smallest=options.smallest,
        sweep_seeds=options.sweep_seeds,
        found=tuple(best[: options.top]),
        families=tuple(best_of_families(best)),
        tracking_uri=config.tracking_uri,
        packed=options.trials_per_gpu > 1,
        training=config.training,
    )


def chosen_arms(config: ConfirmationConfig, best_rate: float) -> tuple[list[Arm], dict[str, str]]:
    """Returns the arms of a confirmation and those that are the same: see `arms`."""
    return arms(config.found, best_rate, config.training.steps, family_arms(config.families))


def possible_arms(config: ConfirmationConfig) -> list[Arm]:
    """Returns the arms as long as the sweep has not chosen a rate: see `most_arms`."""
    return most_arms(config.found, config.training.steps, family_arms(config.families))


def sweep_runs(config: ConfirmationConfig, folder: ConfirmationFolder) -> list[Run]:
    """Returns the runs of the sweep that chooses the best constant rate, seed after seed."""
    seeds = [_seed(config, SWEEP_OFFSET + i) for i in range(config.sweep_seeds)]
    return [
        Run(arm=f"sweep-{rate:g}", seed=seed, schedule=Constant(rate), folder=folder.sweep(rate, seed))
        for seed in seeds
        for rate in SWEEP_RATES
    ]


def arm_seeds(config: ConfirmationConfig) -> list[int]:
    """Returns the seeds of the arms, in the order in which they are trained."""
    return [_seed(config, i) for i in range(config.seeds)]


def arm_runs(
    config: ConfirmationConfig, folder: ConfirmationFolder, arms: Sequence[Arm], first: int = 0, end: int | None = None
) -> list[Run]:
    """Returns the runs of the arms, seed after seed, so that a confirmation that is stopped has whole seeds.

    Args:
        first, end: which of the seeds, from and up to; all by default.
    """
    seeds = arm_seeds(config)[first:end]
    return [
        Run(arm=arm.name, seed=seed, **parts(arm.regularizer), folder=folder.run(arm.name, seed))
        for seed in seeds
        for arm in arms
    ]


def _seed(config: ConfirmationConfig, i: int) -> int:
    return (config.training.seed + 1 + i) % 2**31
