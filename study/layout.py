"""A study on disk: where each thing lies, and the config that a resumed study takes up again."""

import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from study.config import TrainingConfig
from study.corpus import atomic_path
from study.errors import UserError
from study.folder import RunFolder

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What a study is, whatever machine it runs on.

    Attributes:
        grace_steps: what ASHA gives every trial before it may stop it.
        tracking_uri: where MLflow was first, for `--resume`; hidden if it holds a password.
        optuna_storage: likewise; None for the journal in the study's folder.
        device: cuda or cpu: the numbers of one are not those of the other.
    """

    name: str
    space: str
    preset: str
    trials: int
    sampler: str
    scheduler: str
    seed: int
    grace_steps: int
    corpus_sha256: str
    tracking_uri: str | None
    optuna_storage: str | None
    device: str
    training: TrainingConfig

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
        self.journal = self.path / "optuna.journal"
        self.spool = self.path / "mlflow.spool"
        self.ray = self.path / "ray"
        self.best_schedule = self.path / "best_schedule.yaml"
        self.table = self.path / "trials.parquet"

    def trial(self, number: int) -> RunFolder:
        """Returns the folder of a trial, by its Optuna number."""
        return RunFolder(self.path / "trials" / f"{number:05d}")

    def write_config(self, config: StudyConfig) -> None:
        """Writes the config, of a new study into a new folder. Raises UserError if it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=self.config.exists())
            with atomic_path(self.config) as part:
                part.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{self.path} cannot be made ({error.strerror}): give another --storage") from None

    def read_config(self) -> StudyConfig:
        """Reads the config of a study that exists. Raises UserError."""
        try:
            d = yaml.safe_load(self.config.read_bytes())
            known = [f.name for f in fields(StudyConfig)]
            return StudyConfig(
                **{key: d[key] for key in known if key != "training"}, training=TrainingConfig.from_dict(d["training"])
            )
        except FileNotFoundError:
            raise UserError(f"there is no study in {self.path} to go on with: leave --resume out to start it") from None
        except (OSError, yaml.YAMLError, KeyError, TypeError, UserError) as error:
            raise UserError(f"{self.config} is damaged: {error}") from None
