"""From the options of a search to all that it needs; every mistake is found here, before anything is made."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna

from search_spaces import SPACES
from study.base.cli import flag
from study.base.errors import UserError
from study.base.files import check_output_folder
from study.base.names import LOSS_AND_TIME, Key, Outcome, Role
from study.base.sealed_files import copy_of
from study.base.uris import HIDDEN, absolute, recalled, redacted
from study.corpus import corpus_id
from study.engine.optuna_runs import OUTCOMES, open_optuna_study
from study.engine.start_up import Machines, check_device, start_machines, try_machines
from study.records.downloads import download_files
from study.records.journal import repair
from study.records.lock import StudyLock
from study.records.optuna_study import check_database, finished, open_database, open_storage
from study.records.storage import Storage
from study.records.study_layout import StudyConfig, StudyFolder
from study.records.uploads import UploadQueue
from study.search.new_study import new_config, new_data, preset_training
from study.search.options import MACHINE_FIELDS, SearchOptions, check_unshared
from study.search.replicates import lacking_replicates, replicate_outcomes
from study.tasks.data import Data, check_data, load_data
from study.tasks.task_files import TaskFiles, read_task_files
from study.tracking.client import check, has_experiment, tracking_uri
from study.tracking.experiment import has_all
from study.training.built_in import task_name
from study.training.task_config import TaskConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a session runs, and with what; `lock` is that of a study that exists already."""

    config: StudyConfig
    storage: Storage
    folder: StudyFolder
    uploads: UploadQueue
    data: Data
    machines: Machines
    uri: str
    database: str | None
    time_budget: float | None
    lock: StudyLock | None


def make_plan(
    options: SearchOptions, given: Mapping[str, Any], on_progress: Callable[[str], None] | None = None
) -> Plan | None:
    """Checks the options, starts Ray, and tries out what a trial takes; None if the study has all its trials.

    Args:
        given: those of the options that stand on the command line.
        on_progress: is told what is done.

    Raises:
        UserError: a mistake, found before any store, folder or run is made.
    """
    storage = Storage(options.storage)
    storage.check()
    if not options.resume:
        if options.name is not None:
            _check_unused(storage, options.name)
        return _plan(storage, options, None, None, on_progress)
    assert options.name is not None  # SearchOptions checks it
    folder = StudyFolder(storage.folder, options.name)
    if storage.is_remote:
        if not storage.holds(folder.config):
            raise UserError(f"there is no study {options.name} in {storage.uri} to go on with: leave --resume out")
        folder.make()
    elif not (folder.config.exists() or copy_of(folder.config).exists()):
        folder.read_config()  # says that there is none
    lock = StudyLock(folder.lock, storage=storage)
    plan = None
    try:
        kept = storage.list(folder.task) if storage.is_remote else []
        download_files(storage, [folder.config, copy_of(folder.config), *folder.grown, *kept])
        old = _old_config(folder, options, given)
        repair(folder.journal)
        plan = _plan(storage, options, old, lock, on_progress)
        return plan
    finally:
        if plan is None:
            lock.release()


def _plan(
    storage: Storage,
    options: SearchOptions,
    old: StudyConfig | None,
    lock: StudyLock | None,
    on_progress: Callable[[str], None] | None,
) -> Plan | None:
    home = StudyFolder(storage.folder, old.name).path if old else storage.folder
    uri = tracking_uri(options.tracking_uri or recalled(old.tracking_uri if old else None, home))
    _check_tracking(uri, must_answer=old is None or options.tracking_uri is not None)
    database = options.optuna_storage or recalled(old.optuna_storage if old else None, home)
    database = absolute(database) if database else None
    if database is not None:
        check_database(database)
    timed = (old or options).objectives == LOSS_AND_TIME
    if timed:
        check_unshared(options.trials_per_gpu)
    if old is not None and _is_settled(storage, old, options, database, uri):
        return None
    if old is None:
        data = new_data(options, on_progress)
    else:
        data = load_data(old.training, StudyFolder(storage.folder, old.name).task, old.corpus_sha256, on_progress)
    if old is None and options.preset is not None:
        check_data(preset_training(options, options.preset), data)  # before Ray takes its seconds
    gpus = start_machines(options, storage, uri, old.device if old else None)
    config = old or new_config(options, storage, gpus, data, uri, database)
    config = _grown(config, options)
    check_data(config.training, data)
    presets = {} if options.own_task else options.built_in.presets
    on_cuda = presets[config.preset].on_cuda if old is None and presets else {}
    machines = try_machines(options, gpus, config.trials, config.training, on_cuda, data, alone=timed)
    if timed and gpus and machines.estimate.device == "cpu":
        raise UserError("torch cannot use the GPUs here, and trials would share the CPU: give --gpus 0")
    if old is not None:
        check_device(old.name, old.device, machines.estimate)
    else:
        _check_unused(storage, config.name)
        training = replace(config.training, threads=machines.slots.threads, **machines.estimate.on_cuda)
        config = replace(config, training=training, device=machines.estimate.device)
    if database is not None and old is None and config.name in optuna.get_all_study_names(open_database(database)):
        raise _in_use(config.name, f"an Optuna study in {redacted(database)}")
    if old is None and has_experiment(uri, config.name):
        raise _in_use(config.name, f"an MLflow experiment at {redacted(uri)}")
    folder = StudyFolder(storage.folder, config.name)
    return Plan(
        config=config,
        storage=storage,
        folder=folder,
        uploads=UploadQueue(storage, folder.grown),
        data=data,
        machines=machines,
        uri=uri,
        database=database,
        time_budget=options.time_budget,
        lock=lock,
    )


def _check_tracking(uri: str, must_answer: bool) -> None:
    """Raises UserError if the store cannot be used; a study that goes on may find its server down, and waits for it."""
    try:
        check(uri, create=True)
    except UserError as error:
        if must_answer or not uri.startswith(("http://", "https://")):
            raise
        log.warning("%s: the study goes on, and what MLflow should have is kept on disk", str(error).partition(" (")[0])


def _old_config(folder: StudyFolder, options: SearchOptions, given: Mapping[str, Any]) -> StudyConfig:
    old = folder.read_config()
    if old.space not in SPACES:
        raise UserError(f"study {old.name} has the space {old.space!r:.60}, and there are {', '.join(SPACES)} only")

    if options.own_task is not None:
        _check_same_task(old, read_task_files(options.own_task))
    is_now = asdict(options) | {"corpus": corpus_id(options.chosen_corpus), "set": options.settings}
    is_now["optuna_storage"] = absolute(options.optuna_storage or "")
    training = asdict(old.training)
    task = options.own_task or task_name(old.training)
    was = training | asdict(old) | {"set": training.get("settings", {}), "task": task, "task_help": False}
    was["optuna_storage"] = recalled(old.optuna_storage, folder.path) or old.optuna_storage
    for name in given:
        before, now = was.get(name), is_now[name]
        if name not in MACHINE_FIELDS and HIDDEN != before != now:
            raise UserError(
                f"{flag(name)} {redacted(str(now))} contradicts the study, which has {before}: leave it out"
            )
    if old.tracking_uri == HIDDEN and not (options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")):
        raise UserError("the tracking URI of the study held a password, which is not kept: set MLFLOW_TRACKING_URI")
    if old.optuna_storage == HIDDEN and not options.optuna_storage:
        raise UserError("the --optuna-storage of the study held a password, which is not kept: give it again")
    return old


def _check_same_task(old: StudyConfig, files: TaskFiles) -> None:
    """Raises UserError if these are not the files that the study's task began with."""
    if not isinstance(old.training, TaskConfig):
        raise UserError(
            f"--task {files.name} contradicts the study, which trains {task_name(old.training)}: leave it out"
        )
    if (files.name, files.sha256) != (old.training.task, old.training.task_sha256):
        raise UserError(
            f"--task {files.name} has changed since the study began with {old.training.task}: leave --task out to go "
            "on with the study's own copy, or begin a new study"
        )


def _check_unused(storage: Storage, name: str) -> None:
    folder = StudyFolder(storage.folder, name)
    if folder.in_use(storage):
        raise _in_use(name, f"it is in {storage.uri}" if storage.is_remote else f"the folder {folder.path}")
    if not storage.is_remote:
        check_output_folder(storage.folder, "--storage")


def _is_settled(storage: Storage, old: StudyConfig, options: SearchOptions, database: str | None, uri: str) -> bool:
    folder = StudyFolder(storage.folder, old.name)
    storage_of_trials = open_storage(database, folder.journal)
    study = open_optuna_study(storage_of_trials, old.name, old.sampler, old.seed, old.objectives)
    config = _grown(old, options)
    outcomes: dict[Key, Outcome] = {trial.number: OUTCOMES[trial.state] for trial in finished(study)}
    has_runs = len(outcomes) >= config.trials and not lacking_replicates(study, config)
    return has_runs and has_all(uri, old.name, Role.STUDY, outcomes | replicate_outcomes(study)) is True


def _grown(config: StudyConfig, options: SearchOptions) -> StudyConfig:
    """Returns a config with as many runs as the options ask for."""
    replicate = config.replicate if options.replicate is None else options.replicate
    return replace(config, trials=options.trials or config.trials, replicate=replicate)


def _in_use(name: str, what: str) -> UserError:
    return UserError(f"--name {name} is in use ({what}): add --resume to go on with it, or give another name")
