"""The command line of study.search, and what can be said about it before anything is started."""

import math
from dataclasses import dataclass
from pathlib import Path

from search_spaces import SPACES
from study.base.cli import described, flag
from study.base.errors import UserError
from study.records.storage import check_scheme
from study.training.config import PRESETS

MACHINE_FIELDS = (
    "trials", "gpus", "trials_per_gpu", "address", "tracking_uri", "time_budget", "storage", "name", "resume",
)  # fmt: skip
"""Those that a resumed study may be given anew: where it runs and how long, not what it is."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The command line of study.search. None is the default that the description names.

    Raises:
        UserError: names the flag and the value that it refuses.
    """

    gpus: int | None = described("GPUs the study may use in all; 0 is the CPU; default all that Ray sees", None)
    trials_per_gpu: int = described("trials that share a GPU", 1, metavar="K")
    trials: int | None = described("trials in all; default the preset's, 64 on GPUs and 16 on the CPU", None)
    name: str | None = described("of the study: MLflow experiment and folder; default preset and UTC time", None)
    resume: bool = described("go on with a study that was stopped or killed, or is to get more trials", False)
    space: str = described("search space", "dynamic_dropout", choices=tuple(SPACES))
    preset: str | None = described(
        "model and budget; default shakespeare_char on GPUs, laptop on the CPU", None, choices=tuple(PRESETS)
    )
    corpus: str = described(
        "shakespeare (bundled), shakespeare_char (fetched once), or a UTF-8 text file",
        "shakespeare",
        metavar="NAME_OR_PATH",
    )
    steps: int | None = described("optimizer steps a trial; default the preset's", None)
    seed: int = described("of every trial, and of the sampler", 1337)
    sampler: str = described("Optuna's sampler", "tpe", choices=("tpe", "random"))
    scheduler: str = described("asha stops trials early, none lets all of them end", "asha", choices=("asha", "none"))
    time_budget: float | None = described("seconds after which the study ends in good order", None, metavar="SECONDS")
    storage: str = described(
        "folder of studies; on a cluster of several nodes one on NFS, or s3://BUCKET/PREFIX",
        "studies",
        metavar="PATH_OR_URI",
    )
    tracking_uri: str | None = described(
        "MLflow server; default MLFLOW_TRACKING_URI, or mlflow.db in this folder", None, metavar="URI"
    )
    optuna_storage: str | None = described(
        "Optuna database; default a journal in the study's folder", None, metavar="URL"
    )
    address: str | None = described("Ray cluster; default RAY_ADDRESS, or a local Ray of its own", None)

    def __post_init__(self) -> None:
        for name, least in (("gpus", 0), ("trials_per_gpu", 1), ("trials", 1), ("steps", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{flag(name)} must be at least {least}, got {value}")
        if self.time_budget is not None and not (math.isfinite(self.time_budget) and self.time_budget > 0):
            raise UserError(f"--time-budget must be a number of seconds above 0, got {self.time_budget}")
        if self.resume and self.name is None:
            raise UserError("--resume needs the --name of the study to go on with")
        if "://" in self.storage:
            check_scheme(self.storage)
        elif Path(self.storage).exists() and not Path(self.storage).is_dir():
            raise UserError(f"--storage {self.storage} is a file: give a folder")
