"""The command line of study.search, with the checks that need nothing but the command line."""

import math
from dataclasses import dataclass
from pathlib import Path

from search_spaces import SPACES
from study.base.cli import check_bounds, described, flag
from study.base.errors import UserError
from study.base.names import LOSS, LOSS_AND_TIME
from study.base.ranking import MORE_SEEDS
from study.records.storage import check_scheme
from study.training.built_in import BUILT_IN, LANGUAGE, PRESET_NAMES, SUPERNET, BuiltIn
from study.training.task_config import Setting, parse_settings

MACHINE_FIELDS = (
    "trials", "replicate", "gpus", "trials_per_gpu", "address", "tracking_uri", "time_budget", "storage", "name",
    "resume",
)  # fmt: skip
"""The fields that may change when a study resumes: where it runs and how long, not what it computes."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The command line of study.search. A field left at None takes the default stated in its help.

    Raises:
        UserError: names the flag and the refused value.
    """

    gpus: int | None = described(
        "GPUs the study may use in all; 0 is the CPU; default all that Ray sees", None, least=0
    )
    trials_per_gpu: int = described("trials that share a GPU", 1, metavar="K", least=1)
    trials: int | None = described(
        "trials in all; default the preset's, 64 on GPUs and 16 on the CPU; in a space of families as many for each",
        None,
        least=1,
    )
    replicate: int | None = described(
        f"train the K best trials with {MORE_SEEDS} more seeds each; the winner is then the best mean of "
        f"{1 + MORE_SEEDS} seeds; default 0",
        None,
        metavar="K",
        least=0,
    )
    name: str | None = described("name of the study: MLflow experiment and folder; default preset and UTC time", None)
    resume: bool = described("continue a study that was stopped or killed, or give it more trials", False)
    space: str | None = described(
        "search space; default that of the task, dynamic_dropout for language", None, choices=tuple(SPACES)
    )
    preset: str | None = described(
        "model and budget; default shakespeare_char on GPUs, gpu for sentences, laptop on the CPU",
        None,
        choices=PRESET_NAMES,
    )
    corpus: str | None = described(
        "shakespeare (bundled, the default), shakespeare_char (fetched once), verses (for sentences), or a UTF-8 text "
        "file",
        None,
        metavar="NAME_OR_PATH",
    )
    task: str | None = described(
        f"what trials train: {', '.join(BUILT_IN)} (default {LANGUAGE}), or your own model and data, a function in a "
        "file; see --task-help",
        None,
        metavar="NAME_OR_FILE.py:FUNCTION",
    )
    set: tuple[str, ...] = described(
        "a setting that your task reads as run.config.KEY; may be given several times", (), metavar="KEY=VALUE"
    )
    task_help: bool = described("print an example of a task, and exit", False)
    steps: int | None = described(
        "optimizer steps a trial; default the preset's; your own task needs it", None, least=1
    )
    eval_interval: int | None = described(
        "of your task: steps between two evaluations; default a twentieth of the steps", None, least=1
    )
    seed: int = described("seed of every trial and of the sampler", 1337, least=0)
    sampler: str = described("Optuna's sampler", "tpe", choices=("tpe", "random"))
    scheduler: str | None = described(
        "asha stops trials early; none lets every trial end; default asha, and none with --objectives loss,time",
        None,
        choices=("asha", "none"),
    )
    objectives: str = described(
        "what the search minimises: the best validation loss, or that and the training time; then no trial is stopped "
        "early, and none shares a GPU or runs beside another on the CPU, so that times can be compared",
        LOSS,
        choices=(LOSS, LOSS_AND_TIME),
    )
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
        check_bounds(self)
        if self.time_budget is not None and not (math.isfinite(self.time_budget) and self.time_budget > 0):
            raise UserError(f"--time-budget must be a number of seconds above 0, got {self.time_budget}")
        if self.objectives == LOSS_AND_TIME:
            if self.scheduler == "asha":
                raise UserError(
                    "--objectives loss,time needs --scheduler none: ASHA compares losses alone, and would stop the "
                    "fastest trials"
                )
            check_unshared(self.trials_per_gpu)
        if self.resume and self.name is None:
            raise UserError("--resume needs the --name of the study to go on with")
        self._check_task()
        if "://" in self.storage:
            check_scheme(self.storage)
        elif Path(self.storage).exists() and not Path(self.storage).is_dir():
            raise UserError(f"--storage {self.storage} is a file: give a folder")

    @property
    def chosen_scheduler(self) -> str:
        """The scheduler of a new study."""
        return self.scheduler or ("asha" if self.objectives == LOSS else "none")

    @property
    def own_task(self) -> str | None:
        """The file and the function of the user's own task; None for a task of the project."""
        return None if self.task in (None, *BUILT_IN) else self.task

    @property
    def built_in(self) -> BuiltIn:
        """The project's task; what it says of the user's own task is the language model's."""
        return BUILT_IN.get(self.task or LANGUAGE, BUILT_IN[LANGUAGE])

    @property
    def chosen_space(self) -> str:
        """The search space of a new study."""
        return self.space or self.built_in.space

    @property
    def chosen_corpus(self) -> str:
        """The corpus of a new study."""
        return self.corpus or self.built_in.corpus

    @property
    def settings(self) -> dict[str, Setting]:
        """The settings of the user's own task."""
        return parse_settings(self.set)

    def _check_task(self) -> None:
        _ = self.settings
        if self.space == SUPERNET != self.task and not self.resume:
            raise UserError(f"--space {SUPERNET} is of --task {SUPERNET}, whose sizes it tells apart: give both")
        if self.own_task is None:
            if self.preset not in (None, *self.built_in.presets):
                raise UserError(
                    f"--preset {self.preset} is none of --task {self.task or LANGUAGE}: give one of "
                    f"{', '.join(self.built_in.presets)}"
                )
            for name in ("set", "eval_interval"):
                if getattr(self, name) and not self.resume:
                    raise UserError(f"{flag(name)} needs --task FILE.py:FUNCTION: add it, or leave {flag(name)} out")
            return
        if ":" not in self.own_task:
            raise UserError(f"--task {self.task} is none of {', '.join(BUILT_IN)}, and no FILE.py:FUNCTION: give one")
        if self.preset is not None or self.corpus is not None:
            name = "preset" if self.preset is not None else "corpus"
            raise UserError(
                f"{flag(name)} is for the project's tasks, and --task {self.task} brings its own: leave one out"
            )
        if self.steps is None and not self.resume:
            raise UserError(f"--task {self.task} needs --steps N: the updates of a run, which run.steps() counts")


def check_unshared(trials_per_gpu: int) -> None:
    """Raises UserError if trials share a GPU."""
    if trials_per_gpu > 1:
        raise UserError(
            f"--trials-per-gpu {trials_per_gpu} lets trials share a GPU, and --objectives loss,time compares their "
            "times: leave --trials-per-gpu out"
        )
