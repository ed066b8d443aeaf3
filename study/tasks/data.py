"""What the runs of a task learn from, and the thing that trains on it."""

from collections.abc import Callable
from pathlib import Path

from model.regularizer import Regularizer
from study.base.errors import UserError
from study.corpus import Corpus, load_corpus
from study.tasks.own_trainer import TaskTrainer
from study.tasks.sentences import SentencesTrainer
from study.tasks.supernet import SupernetTrainer
from study.tasks.task_files import TaskFiles, read_kept
from study.tasks.verses import Verses
from study.training.config import TrainingConfig
from study.training.fits import check_fits
from study.training.sentences_config import SentencesConfig
from study.training.supernet_config import SupernetConfig
from study.training.task_config import RunConfig, TaskConfig
from study.training.trainable import Trainable
from study.training.trainer import Trainer

Data = Corpus | TaskFiles
_TRAINERS: dict[type[TrainingConfig], type[Trainer]] = {
    SupernetConfig: SupernetTrainer,
    SentencesConfig: SentencesTrainer,
}


def load_data(config: RunConfig, task: Path, sha256: str, on_progress: Callable[[str], None] | None = None) -> Data:
    """Returns what a study that exists learns from.

    Args:
        task: the folder where the study keeps the files of the user's own task.
        sha256: of the data when the study began.

    Raises:
        UserError: if the data have changed since.
    """
    if isinstance(config, TaskConfig):
        files = read_kept(task)
        if files.sha256 != sha256:
            raise UserError(f"{task} has changed since the study began: put its old files back")
        return files
    corpus = load_corpus(config.corpus, on_progress, sha256)
    if corpus.sha256 != sha256:
        raise UserError(f"corpus {config.corpus} has changed since the study began: put its old text back")
    return corpus


def check_data(config: RunConfig, data: Data, regularizer: Regularizer | None = None) -> None:
    """Raises UserError if the data do not suffice for a config, or a family does not fit it."""
    if isinstance(data, Corpus) and not isinstance(config, TaskConfig):
        check_fits(config, data, regularizer)
        if isinstance(config, SentencesConfig):
            Verses.of(data)


def make_trainer(
    config: RunConfig, regularizer: Regularizer, data: Data, device: str, folder: Path | None = None
) -> Trainable:
    """Returns a run that has not begun.

    Args:
        folder: where the user's own task may write.

    Raises:
        UserError: if the data do not suffice, or the regularizer does not fit.
    """
    if isinstance(config, TaskConfig):
        assert isinstance(data, TaskFiles)
        return TaskTrainer(config, regularizer, data, device, folder)
    assert isinstance(data, Corpus)
    return _TRAINERS.get(type(config), Trainer)(config, regularizer, data, device)
