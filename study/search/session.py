"""One session of a study: runs the trials that it still lacks, and writes down what came out."""

from contextlib import suppress
from functools import partial

import optuna
from rich.console import Console

from study.base.errors import UserError, WorldError, disk_error
from study.base.provenance import facts
from study.engine.cluster import Room
from study.engine.display import Display, duration
from study.engine.early_stopping import SparingASHA
from study.engine.recorder import Recorder
from study.engine.run_spec import flat
from study.engine.runner import Stop, run_trials
from study.engine.searcher import StudySearcher, ask_known_good_first, open_optuna_study
from study.engine.trial import Job, trainable
from study.engine.trial_specs import describe_finished, pause_unfinished, trial_spec
from study.records.lock import StudyLock
from study.records.optuna_study import finished, open_storage
from study.records.storage import first_line
from study.search.plan import Plan
from study.search.results import bring_evaluations, finish
from study.tracking.deadline import SEND_SECONDS, SEND_SECONDS_AFTER_ERROR, SEND_SECONDS_INTERRUPTED
from study.tracking.writer import StudyWriter

NOTE = """Each child run is a trial: one GPT trained with one dropout schedule (`schedule.*`), all else being equal.
Select some and compare their `val_loss` and `dropout_rate`. `outcome` says how a trial ended. The winner is the lowest
`best_val_loss` among the completed ones; its schedule is the artifact `best_schedule.yaml`."""


def run_session(plan: Plan, console: Console) -> int:
    """Runs the session; returns the exit status.

    Raises:
        UserError: if another session has just begun the same study.
        WorldError: if the disk is full or gone; --resume goes on.
    """
    plan.folder.make()
    with plan.lock or _first_lock(plan):
        try:
            return _run(plan, console)
        except Exception as error:
            if (disk := disk_error(error)) is not None:
                raise WorldError(_cannot_write(plan, f"{plan.folder.path} cannot be written: {disk}")) from None
            if isinstance(error, WorldError):
                raise WorldError(_cannot_write(plan, str(error))) from None
            if plan.storage.is_remote and isinstance(error, OSError) and error.errno is None:  # a store's own
                what = f"storage {plan.storage.uri} does not answer ({first_line(error)})"
                raise WorldError(_go_on(plan, what)) from None
            raise


def _run(plan: Plan, console: Console) -> int:
    config, folder = plan.config, plan.folder
    folder.write_config(config)
    stop = Stop(plan.time_budget)
    with plan.mirror.running(lambda: SEND_SECONDS_INTERRUPTED if stop.interrupted else SEND_SECONDS):
        status = _run_session(plan, console, stop)
    if plan.storage.is_remote and plan.mirror.is_whole:
        with suppress(OSError):  # then a session elsewhere waits a little, no more
            plan.storage.delete(folder.lock)
    return status


def _run_session(plan: Plan, console: Console, stop: Stop) -> int:
    config, folder = plan.config, plan.folder
    study = open_optuna_study(open_storage(plan.database, folder.journal), config.name, config.sampler, config.seed)
    ask_known_good_first(study, config.space)
    ended = len(finished(study))
    lacking = config.trials - ended
    if lacking > 0:
        _announce(plan, lacking, console)
    writer = StudyWriter(plan.uri, config.name, folder.path, plan.storage)
    with Display(console, config.trials, config.training.steps, ended) as display, stop.on_signals():
        recorder = Recorder(
            folder.path,
            partial(trial_spec, config),
            plan.mirror,
            writer,
            display,
            "the study was stopped",
            plan.slots.trials_per_gpu,
        )
        try:
            params = flat(config.to_dict())
            tags = facts(config.corpus_sha256) | {"trials": str(params.pop("trials"))}  # a param could not change
            writer.start_study(params, tags, NOTE)
            bring_evaluations(plan, study, seconds=0)
            describe_finished(config, study, recorder)
            if lacking > 0:
                _run_trials(plan, study, recorder, lacking, stop)
            pause_unfinished(config, study, recorder)
            return finish(plan, study, writer, console, stop)
        except BaseException as error:  # the runs must not seem to go on
            if not writer.closed:  # else it is only the printing that failed
                recorder.pause_all()
                writer.end_study("FAILED")
                writer.close(SEND_SECONDS_AFTER_ERROR)
            raise error


def _first_lock(plan: Plan) -> StudyLock:
    lock = StudyLock(plan.folder.lock)
    if plan.folder.in_use:  # since the plan was made
        lock.release()
        raise UserError(f"--name {plan.config.name} has just been taken: add --resume, or give another name")
    return lock


def _cannot_write(plan: Plan, what: str) -> str:
    return _go_on(plan, what, "make space, then ")


def _go_on(plan: Plan, what: str, first: str = "") -> str:
    return f"{what}: nothing that was written is lost; {first}go on with --name {plan.config.name} --resume"


def _run_trials(plan: Plan, study: optuna.Study, recorder: Recorder, trials: int, stop: Stop) -> None:
    config, folder = plan.config, plan.folder
    steps, slots = config.training.steps, plan.slots
    searcher = StudySearcher(
        study, config.space, steps, recorder, Room(slots).has_more_than, plan.mirror, slots.trials_per_gpu
    )
    scheduler = None
    if config.scheduler == "asha":
        scheduler = SparingASHA(config.training.steps, config.grace_steps)
        scheduler.remember(study)
    job = Job(
        storage=plan.storage.uri,
        study=config.name,
        training=config.training,
        corpus=plan.shared_corpus,
        device=plan.estimate.device,
    )
    run_trials(searcher, scheduler, trainable(job), plan.slots, trials, stop, folder.ray)


def _announce(plan: Plan, trials: int, console: Console) -> None:
    config, slots, estimate = plan.config, plan.slots, plan.estimate
    if slots.gpus and estimate.device == "cpu":
        console.print("warning: torch cannot use the GPUs that Ray lends: trials train on the CPU", style="yellow")
    seconds = estimate.seconds * -(-trials // slots.count)
    size = trials * estimate.kept_bytes + slots.count * estimate.running_bytes
    where = f"{slots.count} at once on {'GPUs' if slots.gpus else 'CPU cores'}"
    console.print(
        f"study {config.name}: {trials} trials of {config.training.steps:,} steps, {where}: at most about "
        f"{duration(seconds)} and {max(1, round(size / 1e6)):,} MB of disk",
        highlight=False,
        soft_wrap=True,
    )
