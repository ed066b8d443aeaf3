"""The command line of study.confirm, with the checks that need nothing but the command line."""

from dataclasses import dataclass

from study.base.cli import check_bounds, described

MOST_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class ConfirmOptions:
    """The command line of study.confirm --study. A field left at None takes the default stated in its help.

    Raises:
        UserError: names the flag and the refused value.
    """

    top: int = described("best schedules of the study to confirm", 3, metavar="K", least=1)
    seeds: int = described("runs of each arm, each with a fresh seed", 5, metavar="S", least=1, most=MOST_SEEDS)
    sweep_seeds: int = described(
        "runs of each constant rate in the sweep that chooses the best rate", 3, metavar="S", least=1, most=MOST_SEEDS
    )
    gpus: int | None = described("GPUs to use in all; 0 is the CPU; default all that Ray sees", None, least=0)
    trials_per_gpu: int = described("runs that share a GPU, which lengthens their times", 1, metavar="K", least=1)
    storage: str = described("folder of studies, or s3://BUCKET/PREFIX", "studies", metavar="PATH_OR_URI")
    tracking_uri: str | None = described("MLflow server; default the study's", None, metavar="URI")
    address: str | None = described("Ray cluster; default RAY_ADDRESS, or a local Ray of its own", None)

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class RunsOptions:
    """The command line of study.confirm --runs. A field left at None takes the default stated in its help."""

    output: str = described("folder for verdict.json and its tables", "confirmation", metavar="FOLDER")
    corpus: str | None = described(
        "text that all runs learned from; default the text that the runs name", None, metavar="NAME_OR_PATH"
    )
    device: str | None = described(
        "device that measures the weights; default cuda if available", None, choices=("cpu", "cuda")
    )
