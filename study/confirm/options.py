"""The command line of study.confirm, and what can be said about it before anything is started."""

from dataclasses import dataclass

from study.base.cli import described, flag
from study.base.errors import UserError

MOST_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class ConfirmOptions:
    """What the command line of study.confirm says of the runs of a study. None is the default that is named.

    Raises:
        UserError: names the flag and the value that it refuses.
    """

    top: int = described("best schedules of the study to confirm", 3, metavar="K")
    seeds: int = described("runs of each arm, each with a fresh seed", 5, metavar="S")
    sweep_seeds: int = described("runs of each constant rate of the sweep that chooses the best one", 3, metavar="S")
    gpus: int | None = described("GPUs to use in all; 0 is the CPU; default all that Ray sees", None)
    trials_per_gpu: int = described("runs that share a GPU, which falsifies their times", 1, metavar="K")
    storage: str = described("folder of studies, or s3://BUCKET/PREFIX", "studies", metavar="PATH_OR_URI")
    tracking_uri: str | None = described("MLflow server; default the study's", None, metavar="URI")
    address: str | None = described("Ray cluster; default RAY_ADDRESS, or a local Ray of its own", None)

    def __post_init__(self) -> None:
        for name, least in (("top", 1), ("seeds", 1), ("sweep_seeds", 1), ("gpus", 0), ("trials_per_gpu", 1)):
            value = getattr(self, name)
            most = MOST_SEEDS if name.endswith("seeds") else None
            if value is not None and (value < least or (most is not None and value > most)):
                limit = f"at least {least}" if most is None else f"from {least} to {most}"
                raise UserError(f"{flag(name)} must be {limit}, got {value}")


@dataclass(frozen=True, kw_only=True)
class RunsOptions:
    """What the command line of study.confirm says of runs made elsewhere. None is the default that is named."""

    output: str = described("folder for verdict.json and its tables", "confirmation", metavar="FOLDER")
    corpus: str | None = described(
        "the text that all runs learned from; default the one that they name", None, metavar="NAME_OR_PATH"
    )
    device: str | None = described(
        "where weights are measured; default cuda if there is one", None, choices=("cpu", "cuda")
    )
