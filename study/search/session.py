"""One session of a study: runs the trials that it still lacks, and writes down what came out."""

import optuna
from rich.console import Console

from study.base.errors import UserError
from study.base.names import Role
from study.base.provenance import facts
from study.base.ranking import MORE_SEEDS
from study.base.sealed_files import copy_of
from study.engine.display import Display, duration
from study.engine.early_stopping import SparingASHA
from study.engine.equal_shares import EqualShares, group_of
from study.engine.optuna_runs import (
    OptunaRuns,
    ask_known_good_first,
    describe_finished,
    open_optuna_study,
    pause_unfinished,
)
from study.engine.replicate_runs import describe_replicates, pause_replicates
from study.engine.run_spec import flat
from study.engine.session import Session, SessionPlan, open_session
from study.records.lock import StudyLock
from study.records.optuna_study import finished, open_storage
from study.records.replicates import replicates_of
from study.search.plan import Plan
from study.search.replicates import lacking_replicates, replicate_outcomes, train_replicates
from study.search.results import bring_evaluations, finish
from study.tasks.task_files import TaskFiles

NOTE = """Each child run is a trial: one model trained with one dropout schedule (`schedule.*`), all else being equal.
Select some and compare their `val_loss` and `dropout_rate`. `outcome` says how a trial ended. The winner is the lowest
`best_val_loss` among the completed ones; its schedule is the artifact `best_schedule.yaml`. A run with the role
`replicate` trains a `trial` again with another `seed`. The winner is then the lowest mean over these seeds."""


def run_session(plan: Plan, console: Console) -> int:
    """Runs the session; returns the exit status.

    Raises:
        UserError: if another session has just begun the same study.
        WorldError: if the disk is full or gone; --resume goes on.
    """
    plan.folder.make()
    lock = plan.lock or _first_lock(plan)

    def write_config() -> None:
        plan.folder.clear_unfinished()
        if isinstance(plan.data, TaskFiles):
            plan.uploads.put(*plan.data.write(plan.folder.task))
        plan.folder.write_config(plan.config)
        plan.uploads.put(plan.folder.config, copy_of(plan.folder.config))

    with open_session(_session_plan(plan, lock), write_config, console) as session:
        return _run(plan, lock, session)


def _session_plan(plan: Plan, lock: StudyLock) -> SessionPlan:
    folder = plan.folder
    return SessionPlan(
        study=plan.config.name,
        root=folder.path,
        path=folder.path,
        storage=plan.storage,
        uploads=plan.uploads,
        lock=lock,
        lock_path=folder.lock,
        machines=plan.machines,
        uri=plan.uri,
        parent=Role.STUDY,
        title="study",
        go_on=f"go on with --name {plan.config.name} --resume",
        sent_by="by --resume",
        time_budget=plan.time_budget,
    )


def _run(plan: Plan, lock: StudyLock, session: Session) -> int:
    config, folder, recorder = plan.config, plan.folder, session.recorder
    storage = open_storage(plan.database, folder.journal, lock.check)
    study = open_optuna_study(storage, config.name, config.sampler, config.seed, config.objectives)
    ask_known_good_first(study, config.space)
    ended = len(finished(study))
    lacking = max(0, config.trials - ended)
    more = MORE_SEEDS * config.replicate if lacking else len(lacking_replicates(study, config))
    if lacking + more > 0:
        _announce(plan, lacking, more, session.console)
    ended += len(replicate_outcomes(study))
    width = 10 if more == 0 else len(f"trial {config.trials} seed {replicates_of(0, config.seed)[0].seed}")
    with Display(session.console, ended + lacking + more, config.training.steps, ended, width) as display:
        params = flat(config.to_dict())
        tags = {name: str(params.pop(name)) for name in ("trials", "replicate")}  # params could not change
        session.start(params, facts(config.corpus_sha256) | tags, NOTE)
        bring_evaluations(plan, study, seconds=0)
        describe_finished(study, config.training, recorder)
        describe_replicates(study, config.training, recorder)
        if lacking > 0:
            _run_trials(plan, study, session, lacking, display)
        pause_unfinished(study, config.training, recorder)
        train_replicates(study, config, session, display)
        pause_replicates(study, config.training, recorder)
        return finish(plan, study, session)


def _run_trials(plan: Plan, study: optuna.Study, session: Session, trials: int, display: Display) -> None:
    config = plan.config
    sharing = plan.machines.slots.trials_per_gpu
    source = OptunaRuns(study, config.space, config.training, trials, plan.uploads, sharing)
    scheduler = None
    if config.scheduler == "asha":
        scheduler = SparingASHA(config.training.steps, config.grace_steps)
        shares = EqualShares.of_space(config.space)
        scheduler.remember(study, lambda trial: group_of(shares, trial.params))
    session.run_set(source, display, scheduler)


def _first_lock(plan: Plan) -> StudyLock:
    lock = StudyLock(plan.folder.lock, storage=plan.storage)
    try:
        if plan.folder.in_use(plan.storage):  # since the plan was made
            raise UserError(f"--name {plan.config.name} has just been taken: add --resume, or give another name")
        if plan.storage.is_remote:
            plan.folder.clear()  # it may be a copy of a study that the store no longer has
    except BaseException:
        lock.release()
        raise
    return lock


def _announce(plan: Plan, trials: int, replicates: int, console: Console) -> None:
    config, slots, estimate = plan.config, plan.machines.slots, plan.machines.estimate
    if slots.gpus and estimate.device == "cpu":
        console.print("warning: torch cannot use the GPUs that Ray lends: trials train on the CPU", style="yellow")
    seconds = estimate.seconds * (-(-trials // slots.count) + -(-replicates // slots.count))
    size = (trials + replicates) * estimate.kept_bytes + slots.count * estimate.running_bytes
    kinds = [f"{trials} trials"] * (trials > 0) + [f"{replicates} replicates of the best trials"] * (replicates > 0)
    what = f" of {config.training.steps:,} steps and ".join(kinds) + f" of {config.training.steps:,} steps"
    where = f"{slots.count} at once on {'GPUs' if slots.gpus else 'CPU cores'}"
    console.print(
        f"study {config.name}: {what}, {where}: at most about "
        f"{duration(seconds)} ({estimate.training_share:.0%} of it training steps) and "
        f"{max(1, round(size / 1e6)):,} MB of disk",
        highlight=False,
        soft_wrap=True,
    )
