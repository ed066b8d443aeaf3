"""One session of a study: runs the trials that it still lacks, and writes down what came out."""

import logging

import optuna
from rich.console import Console

from study.display import Display, duration
from study.early_stopping import SparingASHA
from study.plan import Plan
from study.provenance import facts
from study.recorder import Recorder, flat
from study.results import finish
from study.runner import Stop, run_trials
from study.searcher import StudySearcher, ask_known_good_first, finished, open_optuna_study, open_storage
from study.tracking.writer import StudyWriter
from study.trial import Job

NOTE = """Each child run is a trial: one GPT trained with one dropout schedule (`schedule.*`), all else being equal.
Select some and compare their `val_loss` and `dropout_rate`. `outcome` says how a trial ended. The winner is the lowest
`best_val_loss` among the completed ones; its schedule is the artifact `best_schedule.yaml`."""

SEND_SECONDS_AFTER_ERROR = 5.0


def run_session(plan: Plan, console: Console) -> int:
    """Runs the session; returns the exit status."""
    config, folder = plan.config, plan.folder
    folder.write_config(config)
    study = open_optuna_study(open_storage(plan.database, folder.journal), config.name, config.sampler, config.seed)
    ask_known_good_first(study, config.space)
    ended = len(finished(study))
    lacking = config.trials - ended
    if lacking > 0:
        _announce(plan, lacking, console)
    logging.getLogger("study").addHandler(ToConsole(console))
    stop = Stop(plan.time_budget)
    writer = StudyWriter(plan.client, config.name, folder.spool)
    with Display(console, config.trials, config.training.steps, ended) as display, stop.on_signals():
        recorder = Recorder(config, folder, writer, display)
        try:
            params = flat(config.to_dict())
            tags = facts(config.corpus_sha256) | {"trials": str(params.pop("trials"))}  # a param could not change
            writer.start_study(params, tags, NOTE)
            if lacking > 0:
                _run_trials(plan, study, recorder, lacking, stop)
            for number in sorted(recorder.running):  # Optuna has them as running still: --resume goes on with them
                recorder.trial_broken_off(number)
            return finish(plan, study, writer, console, stop)
        except BaseException:  # the runs must not seem to go on
            for number in sorted(recorder.running):
                recorder.trial_broken_off(number)
            if not writer.closed:  # else it is only the printing that failed
                writer.end_study("FAILED")
                writer.close(SEND_SECONDS_AFTER_ERROR)
            raise


def _run_trials(plan: Plan, study: optuna.Study, recorder: Recorder, trials: int, stop: Stop) -> None:
    config, folder = plan.config, plan.folder
    searcher = StudySearcher(study, config.space, config.training.steps, recorder)
    scheduler = None
    if config.scheduler == "asha":
        scheduler = SparingASHA(config.training.steps, config.grace_steps)
        scheduler.remember(study)
    job = Job(
        storage=folder.path.parent,
        study=config.name,
        training=config.training,
        corpus=plan.corpus.path,
        device=plan.estimate.device,
    )
    run_trials(searcher, scheduler, job, plan.slots, trials, stop, folder.ray)


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


class ToConsole(logging.Handler):
    """Warnings of ours, above the live line."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(f"{record.levelname.lower()}: {record.getMessage()}", style="yellow", markup=False)
