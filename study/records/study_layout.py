"""A study on disk: where each thing lies, and the config that a resumed study takes up again."""

import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from model.checks import short
from study.base.errors import UserError
from study.base.files import PART
from study.base.names import LOSS, LOSS_AND_TIME
from study.base.sealed_files import read_kept, write_kept
from study.records.lock import CLAIMS
from study.records.storage import Storage
from study.training.built_in import PRESET_NAMES
from study.training.run_folder import RunFolder
from study.training.task_config import TASK, RunConfig, read_config

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LEAST = {"trials": 1, "replicate": 0, "seed": 0, "grace_steps": 1}
CHOICES = {
    "sampler": ("tpe", "random"),
    "scheduler": ("asha", "none"),
    "objectives": (LOSS, LOSS_AND_TIME),
    "device": ("cpu", "cuda"),
    "preset": (*PRESET_NAMES, TASK),
}

_ADDED = {"replicate": 0, "objectives": LOSS}
"""What studies of earlier versions were, whose configs lack these keys."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What a study is, whatever machine it runs on.

    Attributes:
        preset: of the project's own task that `training` is of; `task` for the user's own.
        replicate: how many of the best trials are trained with more seeds.
        objectives: what the search minimises.
        grace_steps: what ASHA gives every trial before it may stop it.
        corpus_sha256: of what runs learn from: the text, or the files of the user's own task.
        tracking_uri: where MLflow was first, for `--resume`; hidden if it holds a password.
        optuna_storage: likewise; None for the journal in the study's folder.
        device: cuda or cpu: the numbers of one are not those of the other.
    """

    name: str
    space: str
    preset: str
    trials: int
    replicate: int = 0
    sampler: str
    scheduler: str
    objectives: str = LOSS
    seed: int
    grace_steps: int
    corpus_sha256: str
    tracking_uri: str | None
    optuna_storage: str | None
    device: str
    training: RunConfig

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as plain values."""
        return asdict(self)


class StudyFolder:
    """The folder of one study, `studies/NAME` or under `--storage`."""

    def __init__(self, storage: Path, name: str) -> None:
        if not NAME.fullmatch(name):
            raise UserError(
                f"the study's name {name!r:.120} must be letters, digits, '.', '_' and '-' only, at most 100 of them"
            )
        self.path = (storage / name).absolute()
        self.config = self.path / "study.yaml"
        self.task = self.path / "task"
        self.lock = self.path / "study.lock"
        self.journal = self.path / "optuna.journal"
        self.ray = self.path / "ray"
        self.best_schedule = self.path / "best_schedule.yaml"
        self.table = self.path / "trials.parquet"
        self.replicates = self.path / "replicates.parquet"

    def trial(self, number: int) -> RunFolder:
        """Returns the folder of a trial, by its Optuna number."""
        return RunFolder(self.path / trial_place(number))

    @property
    def grown(self) -> tuple[Path, ...]:
        """The files that libraries write all the time: a resumed study needs them from an object store."""
        return (self.journal,)

    def in_use(self, storage: Storage) -> bool:
        """Whether a study, or something else, is there; a session that died before it wrote the config left none."""
        if storage.is_remote:
            return any(path.parent != self.lock.with_suffix(CLAIMS) for path in storage.list(self.path))
        if not self.path.is_dir():
            return self.path.exists()
        return any(path != self.lock and not path.name.startswith(PART) for path in self.path.iterdir())

    def make(self) -> None:
        """Makes the folder if there is none. Raises UserError if it cannot."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path} cannot be made ({error.strerror}): give another --storage") from None

    def clear_unfinished(self) -> None:
        """Removes the files that a dead session did not finish. Only for the one who holds the lock."""
        for part in self.path.glob(f"{PART}*"):
            shutil.rmtree(part, ignore_errors=True)

    def clear(self) -> None:
        """Removes everything but the lock, which the caller must hold."""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != self.lock:
                path.unlink()

    def write_config(self, config: StudyConfig) -> None:
        """Writes the config. Raises UserError if it cannot be written."""
        try:
            write_kept(self.config, yaml.safe_dump(config.to_dict(), sort_keys=False))
        except OSError as error:
            raise UserError(f"{self.config} cannot be written ({error.strerror}): make space for it") from None

    def read_config(self) -> StudyConfig:
        """Reads the config of a study that exists, from its copy if it is damaged. Raises UserError."""
        try:
            config = _parse(yaml.safe_load(read_kept(self.config)))
            if config.name != self.path.name:
                raise ValueError(f"it is the config of study {short(config.name)}")
            return config
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"there is no study in {self.path} to go on with: leave --resume out to start it") from None
        except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a UserError, bad UTF-8
            raise UserError(f"{self.config} is damaged: {error}") from None


def trial_place(number: int) -> Path:
    """Returns where in its study's folder a trial's is."""
    return Path("trials", f"{number:05d}")


def _parse(d: Any) -> StudyConfig:
    kinds = get_type_hints(StudyConfig)
    d = _ADDED | d if isinstance(d, dict) else d
    if not isinstance(d, dict) or d.keys() != kinds.keys():
        raise ValueError(f"it must be a mapping with the keys {', '.join(kinds)}")
    training = read_config(d["training"])
    values = {key: value for key, value in d.items() if key != "training"}
    for key, value in values.items():
        allowed = get_args(kinds[key]) or (kinds[key],)
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise ValueError(f"{key} must be a {allowed[0].__name__}, got {short(value)}")
        if isinstance(value, int) and value < LEAST[key]:
            raise ValueError(f"{key} must be at least {LEAST[key]}, got {value}")
        if value not in CHOICES.get(key, (value,)):
            raise ValueError(f"{key} must be one of {', '.join(CHOICES[key])}, got {short(value)}")
    return StudyConfig(**values, training=training)
