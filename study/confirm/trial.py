"""What a confirmation's run does on a worker."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.schedules import from_dict
from study.confirm.plan import Run
from study.engine.trial import Job
from study.records.uploads import Mirror, open_run
from study.training.evaluation_rows import Labels
from study.training.measures import run_measured
from study.training.run_folder import RunFolder
from study.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class ConfirmationJob(Job):
    """Trains the runs of a confirmation, by their place in `runs`, and measures more than a trial does.

    Attributes:
        places: where in the study's folder those of the runs are.
    """

    runs: Sequence[Run]
    places: Sequence[Path]

    def opened(self, config: Mapping[str, Any]) -> AbstractContextManager[tuple[RunFolder, Mirror]]:
        """Opens the folder of a run."""
        return open_run(self.storage, self.study, self.places[config["number"]])

    def results(self, config: Mapping[str, Any], folder: RunFolder) -> Generator[dict[str, Any]]:
        """Trains a run, from where it stands, and yields each evaluation with what was measured at it."""
        run, corpus = self.runs[config["number"]], self.corpus.open()
        training = replace(self.training, seed=run.seed)
        trainer = Trainer(training, from_dict(config["schedule"]), corpus, self.device)
        for progress, more in run_measured(folder, trainer, corpus, Labels(study=self.study)):
            yield progress.to_dict() | more
