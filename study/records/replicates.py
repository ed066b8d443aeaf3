"""Replicates: a study's best trials, trained again with more seeds. The Optuna study says how each went."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.base.names import METRIC, Outcome
from study.base.ranking import MORE_SEEDS, Replicates
from study.records.study_layout import StudyFolder
from study.training.run_folder import RunFolder

if TYPE_CHECKING:  # study.confirm --runs reads losses on machines without Optuna
    import optuna

ATTRIBUTE = "replicate "
"""Begins the names of the user attributes of the Optuna study that hold replicates."""
SEED_OFFSET = 10_000
"""The seeds of replicates begin this far after the study's: a confirmation's seeds are new to the search."""


@dataclass(frozen=True, kw_only=True)
class Replicate:
    """A trial that is trained again with another seed.

    Attributes:
        outcome: None while the replicate has no end.
        best_val_loss: of a completed replicate.
        step: of the last evaluation that the driver heard of, -1 without one.
    """

    trial: int
    seed: int
    outcome: Outcome | None = None
    best_val_loss: float | None = None
    reason: str | None = None
    step: int = -1

    @property
    def name(self) -> str:
        """What tells the replicate apart from the others, in MLflow too."""
        return f"trial-{self.trial}-seed-{self.seed}"

    @property
    def place(self) -> Path:
        """Where in the study's folder the replicate's folder is."""
        return Path("replicates", f"{self.trial:05d}", f"seed-{self.seed}")

    def keep(self, study: "optuna.Study") -> None:
        """Writes the replicate into the Optuna study."""
        study.set_user_attr(ATTRIBUTE + self.name, asdict(self))


def replicates_of(trial: int, seed: int) -> list[Replicate]:
    """Returns the replicates that a trial of a study with this seed should have."""
    return [Replicate(trial=trial, seed=(seed + SEED_OFFSET + i) % 2**31) for i in range(MORE_SEEDS)]


def kept_replicates(study: "optuna.Study") -> dict[str, Replicate]:
    """Returns the replicates that were begun, by name, in the order of trials and seeds."""
    found = [value for name, value in study.user_attrs.items() if name.startswith(ATTRIBUTE)]
    read = [Replicate(**d | {"outcome": d["outcome"] and Outcome(d["outcome"])}) for d in found]
    return {mine.name: mine for mine in sorted(read, key=lambda mine: (mine.trial, mine.seed))}


def replicate_losses(study: "optuna.Study") -> Replicates:
    """Returns the losses of the completed replicates in an Optuna study."""
    done = (mine for mine in kept_replicates(study).values() if mine.outcome is Outcome.COMPLETED)
    return _by_trial((mine.trial, mine.best_val_loss) for mine in done)


def replicate_table(folder: StudyFolder, study: "optuna.Study") -> list[dict[str, Any]]:
    """Returns one row for each evaluation of the replicates, as trials.parquet has them of the trials."""
    return [
        row | {"outcome": (mine.outcome or Outcome.STOPPED_EARLY).value}
        for mine in kept_replicates(study).values()
        for row in RunFolder(folder.path / mine.place).rows()
    ]


def losses_in_table(rows: Iterable[Mapping[str, Any]]) -> Replicates:
    """Returns the losses of the completed replicates in a replicates.parquet."""
    last: dict[tuple[int, int], Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        last[row["trial"], row["seed"]] = row
    done = (row for row in last.values() if row["outcome"] == Outcome.COMPLETED)
    return _by_trial((row["trial"], row[METRIC]) for row in done)


def _by_trial(losses: Iterable[tuple[int, float | None]]) -> Replicates:
    found: dict[int, list[float]] = {}
    for trial, loss in losses:
        if loss is not None:
            found.setdefault(trial, []).append(loss)
    return found
