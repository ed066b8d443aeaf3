"""The tasks that the project brings, by name: their presets, and what a study takes if nothing else is given."""

from collections.abc import Mapping
from dataclasses import dataclass

from study.base.names import NATS
from study.training.config import PRESETS, Preset, TrainingConfig
from study.training.sentences_config import SENTENCES, SENTENCES_PRESETS, SentencesConfig
from study.training.supernet_config import SUPERNET_PRESETS, SupernetConfig
from study.training.task_config import RunConfig, TaskConfig

LANGUAGE, SUPERNET = "language", "supernet"


@dataclass(frozen=True, kw_only=True)
class BuiltIn:
    """One task of the project.

    Attributes:
        on_gpus: the preset that a study takes where it has GPUs; on a CPU it takes `laptop`.
        unit: of val_loss; empty if it has none.
        val_loss: a sentence that says how val_loss is measured.
    """

    presets: Mapping[str, Preset]
    on_gpus: str
    space: str
    corpus: str = "shakespeare"
    unit: str = NATS
    val_loss: str


BUILT_IN: dict[str, BuiltIn] = {
    LANGUAGE: BuiltIn(
        presets=PRESETS,
        on_gpus="shakespeare_char",
        space="dynamic_dropout",
        val_loss="val_loss is the mean cross-entropy in nats per token over fixed windows, dropout off.",
    ),
    SUPERNET: BuiltIn(
        presets=SUPERNET_PRESETS,
        on_gpus="shakespeare_char",
        space="supernet",
        val_loss="val_loss is the mean over the sizes of the cross-entropy in nats per token over fixed windows, "
        "dropout off.",
    ),
    SENTENCES: BuiltIn(
        presets=SENTENCES_PRESETS,
        on_gpus="gpu",
        space="sentences",
        corpus="verses",
        unit="",
        val_loss="val_loss is 1 minus the Spearman correlation of verse similarity, dropout off. No human "
        "scores are behind it.",
    ),
}
PRESET_NAMES = tuple(dict.fromkeys(name for task in BUILT_IN.values() for name in task.presets))


def task_name(config: RunConfig) -> str:
    """Returns the name of the task that a config is of: the file and function of the user's own task."""
    if isinstance(config, TaskConfig):
        return config.task
    assert isinstance(config, TrainingConfig)
    if isinstance(config, SentencesConfig):
        return SENTENCES
    return SUPERNET if isinstance(config, SupernetConfig) else LANGUAGE


def unit_of(config: RunConfig) -> str:
    """Returns the unit of val_loss; empty where there is none, or where only the user's own task knows it."""
    return "" if isinstance(config, TaskConfig) else BUILT_IN[task_name(config)].unit


def loss_sentence(config: RunConfig) -> str:
    """Returns a sentence that says how val_loss is measured."""
    if isinstance(config, TaskConfig):
        return "val_loss is the number that the task reports."
    return BUILT_IN[task_name(config)].val_loss


def is_plain(config: RunConfig) -> bool:
    """Whether a config is of the plain GPT, which papers are about: no supernet, and no size of one."""
    return type(config) is TrainingConfig
