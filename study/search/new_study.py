"""The config of a new study, from its options: a preset of the project's tasks, or the user's own task."""

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from study.base.uris import kept
from study.corpus import corpus_id, load_corpus
from study.engine.equal_shares import EqualShares
from study.records.storage import Storage
from study.records.study_layout import StudyConfig, StudyFolder
from study.search.options import SearchOptions
from study.tasks.data import Data
from study.tasks.task_files import TaskFiles, read_task_files
from study.training.built_in import LANGUAGE
from study.training.config import TrainingConfig
from study.training.task_config import TASK, RunConfig, TaskConfig, default_interval

TASK_TRIALS = 16
TASK_GRACE_SHARE = 0.5
"""Not measured, since it depends on the task: between those of the presets `shakespeare_char` and `laptop`."""


def new_data(options: SearchOptions, on_progress: Callable[[str], None] | None) -> Data:
    """Returns what a new study learns from. Raises UserError if it cannot be read."""
    if options.own_task is not None:
        return read_task_files(options.own_task)
    return load_corpus(options.chosen_corpus, on_progress)


def preset_training(options: SearchOptions, preset: str) -> TrainingConfig:
    """Returns a preset's training config with the options in it."""
    training = options.built_in.presets[preset].training
    training = replace(training, seed=options.seed, corpus=corpus_id(options.chosen_corpus))
    return training if options.steps is None else training.with_steps(options.steps)


def new_config(
    options: SearchOptions, storage: Storage, gpus: int, data: Data, uri: str, database: str | None
) -> StudyConfig:
    """Returns the config of a new study; its device is the CPU until the machines are tried out."""
    preset, stem, training, trials, grace_share = _defaults(options, gpus, data)
    study = options.name or f"{stem}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    home = None if storage.is_remote else StudyFolder(storage.folder, study).path
    interval = training.eval_interval  # ASHA looks at evaluations
    grace = max(interval, math.floor(grace_share * training.steps / interval) * interval)
    shares = EqualShares.of_space(options.chosen_space)
    return StudyConfig(
        name=study,
        space=options.chosen_space,
        preset=preset,
        trials=options.trials or (trials if shares is None else shares.trials(trials)),
        replicate=options.replicate or 0,
        sampler=options.sampler,
        scheduler=options.chosen_scheduler,
        objectives=options.objectives,
        seed=options.seed,
        grace_steps=min(grace, training.steps),
        corpus_sha256=data.sha256,
        tracking_uri=kept(uri, home),
        optuna_storage=kept(database, home),
        device="cpu",
        training=training,
    )


def _defaults(options: SearchOptions, gpus: int, data: Data) -> tuple[str, str, RunConfig, int, float]:
    """Returns the preset's name, how a study without a name is called, its training, its trials and the grace share."""
    if isinstance(data, TaskFiles):
        assert options.steps is not None  # SearchOptions checks it
        training = TaskConfig(
            task=data.name,
            task_sha256=data.sha256,
            steps=options.steps,
            eval_interval=options.eval_interval or default_interval(options.steps),
            seed=options.seed,
            settings=options.settings,
        )
        return TASK, Path(data.name.partition(":")[0]).stem, training, TASK_TRIALS, TASK_GRACE_SHARE
    name = options.preset or (options.built_in.on_gpus if gpus else "laptop")
    preset = options.built_in.presets[name]
    stem = name if options.task in (None, LANGUAGE) else f"{options.task}-{name}"
    return name, stem, preset_training(options, name), preset.trials, preset.grace_share
