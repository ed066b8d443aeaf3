"""The command line of study.confirm, with the checks that need nothing but the command line."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from study.base.cli import check_bounds, described, flag
from study.base.errors import UserError
from study.confirm import look_plan

MOST_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class LookOptions:
    """The flags of looks and of power, which both commands have.

    Raises:
        UserError: names the flag and the refused value.
    """

    until_decided: bool = described(
        "add seeds in looks fixed beforehand, until a gain of --smallest nats is shown or excluded", False
    )
    max_seeds: int | None = described(
        f"with --until-decided: seeds of the last look; default {look_plan.MOST_SEEDS}",
        None,
        least=look_plan.LEAST_SEEDS,
        most=MOST_SEEDS,
    )
    smallest: float | None = described(
        "the smallest gain that matters, in nats; default one seed SD, measured", None, metavar="D"
    )
    power: bool = described("only say how many seeds show which gain: starts no run and no Ray", False)
    seed_sd: float | None = described(
        "with --power: SD over seeds, in nats; default measured from the runs that exist", None, metavar="SD"
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        for name, value in (("smallest", self.smallest), ("seed_sd", self.seed_sd)):
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{flag(name)} must be a number of nats above 0, got {value}")
        for name, value, needs in (
            ("max_seeds", self.max_seeds, self.until_decided or self.power),
            ("smallest", self.smallest, self.until_decided or self.power),
            ("seed_sd", self.seed_sd, self.power),
        ):
            if value is not None and not needs:
                flags = "--power" if name == "seed_sd" else "--until-decided"
                raise UserError(f"{flag(name)} {value} needs {flags}: add it, or leave {flag(name)} out")

    @property
    def plan(self) -> tuple[int, ...]:
        """The seeds of all looks."""
        return look_plan.planned_looks(self.max_seeds or look_plan.MOST_SEEDS)

    def check_looks(self, given: Collection[str], plan: tuple[int, ...], smallest: float | None, folder: Path) -> None:
        """Raises UserError if these options change the looks of a confirmation: they hold only if fixed beforehand.

        Args:
            given: the options that stand on the command line.
            plan, smallest: of the confirmation in `folder`; the plan is empty if it has no looks.
        """
        if self.power:
            return
        ways_out = "leave it out, or move that folder away to begin anew"
        if self.until_decided and not plan:
            raise UserError(f"--until-decided contradicts the confirmation in {folder}, which has --seeds: {ways_out}")
        if "seeds" in given and plan:
            raise UserError(f"--seeds contradicts the confirmation in {folder}, which is --until-decided: {ways_out}")
        if self.max_seeds is not None and self.plan != plan:
            raise UserError(
                f"--max-seeds {self.max_seeds} contradicts the confirmation in {folder}, which has {plan[-1]}: "
                f"{ways_out}"
            )
        if self.smallest is not None and self.smallest != smallest:
            raise UserError(
                f"--smallest {self.smallest:g} contradicts the confirmation in {folder}, which has "
                f"{'one seed SD' if smallest is None else f'{smallest:g}'}: {ways_out}"
            )


@dataclass(frozen=True, kw_only=True)
class ConfirmOptions(LookOptions):
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


@dataclass(frozen=True, kw_only=True)
class RunsOptions(LookOptions):
    """The command line of study.confirm --runs. A field left at None takes the default stated in its help."""

    output: str = described("folder for verdict.json and its tables", "confirmation", metavar="FOLDER")
    corpus: str | None = described(
        "text that all runs learned from; default the text that the runs name", None, metavar="NAME_OR_PATH"
    )
    device: str | None = described(
        "device that measures the weights; default cuda if available", None, choices=("cpu", "cuda")
    )
