"""What a study leaves behind: the table of all evaluations, the best schedule, and what its model writes."""

import logging
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from study.base.cli import command_line, relative
from study.base.errors import first_line
from study.base.names import CHECKPOINT, LOSS_AND_TIME, METRIC, PARENT_RUN
from study.base.output import printable
from study.base.provenance import facts
from study.base.ranking import Replicates, best_first, mean_of_seeds, pareto_front
from study.base.regularizers import parts_of
from study.base.uris import redacted, sqlite_path, sqlite_uri, web_address
from study.corpus import Corpus
from study.engine.display import CompletedTrial, best_trials, describe, pareto_table
from study.engine.session import Session
from study.records.expected_files import wait_for_all
from study.records.optuna_study import REASON, finished, loss_of, seconds_of
from study.records.replicates import kept_replicates, replicate_losses, replicate_table
from study.records.study_layout import StudyFolder
from study.records.trial_table import table
from study.report.fresh_seed import expected_losses, kin
from study.search.plan import Plan
from study.search.replicates import lacking_replicates, replicate_outcomes
from study.search.winner import winning_file, write_sample
from study.tracking.client import is_ui_default
from study.tracking.deadline import SEND_SECONDS, SEND_SECONDS_INTERRUPTED
from study.tracking.view import view_path
from study.tracking.writer import StudyWriter
from study.training.built_in import task_name
from study.training.evaluation_rows import best_row, write_parquet
from study.training.run_folder import RunFolder
from study.training.schedule_file import read_schedule_file
from study.training.sentences_config import SENTENCES

log = logging.getLogger(__name__)


def finish(plan: Plan, study: optuna.Study, session: Session) -> int:
    """Writes a study's results into its folder and MLflow, and prints them; returns the exit status."""
    config, folder, console = plan.config, plan.folder, session.console
    writer, stop = session.writer, session.stop
    trials = finished(study)
    completed = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    lacking = lacking_replicates(study, config)
    whole = len(trials) >= config.trials and not lacking
    if stop.interrupted:
        if not bring_evaluations(plan, study, SEND_SECONDS_INTERRUPTED, patience=SEND_SECONDS_INTERRUPTED):
            completed, whole = [], False  # what is in a store that is away is left to --resume
    else:
        bring_evaluations(plan, study, SEND_SECONDS)
    write_parquet(table(folder, study), folder.table)
    plan.uploads.put(folder.table)
    writer.artifacts(PARENT_RUN, [folder.config, folder.table])
    if more := replicate_table(folder, study):
        write_parquet(more, folder.replicates)
        plan.uploads.put(folder.replicates)
        writer.artifacts(PARENT_RUN, [folder.replicates])
    if folder.journal.exists():  # with it, a report can be made from MLflow alone
        writer.artifacts(PARENT_RUN, [folder.journal])
    replicates = replicate_losses(study)
    completed = best_first(completed, loss=loss_of, number=lambda trial: trial.number, replicates=replicates)
    if completed:
        winner = completed[0]
        writer.flush(session.patience())  # the file is to name the winner's run
        sample = _write_winner(plan, winner, writer)
        plan.uploads.put(folder.best_schedule)
        writer.log(len(trials) + len(replicate_outcomes(study)), {METRIC: _value(winner)})
        writer.artifacts(PARENT_RUN, [folder.best_schedule])
        if sample is not None:
            writer.artifacts(winner.number, [folder.trial(winner.number).sample], CHECKPOINT)
    report = None if stop.interrupted else _write_report(plan, study, writer, console)
    session.finish("FINISHED" if completed else "FAILED")

    if completed:
        shown = _completed(folder, completed, replicates)
        best_trials(shown, console)
        if config.objectives == LOSS_AND_TIME:
            pareto_table(_front(shown), console)
        if sample is not None:
            _say(console, f"The winner writes:\n{sample.strip()[:300]}\n")
        best = relative(str(folder.best_schedule))
        _say(console, f"best schedule    {best}")
        _say(console, f"train with it    {shlex.join(command_line('train', '--schedule', best))}")
        if config.objectives == LOSS_AND_TIME:
            fastest = command_line("export", "--study", config.name, "--pick", "fastest")
            _say(console, f"or the fastest   {shlex.join(fastest)}")
        _say(console, f"see the trials   {_ui(plan.uri, writer.experiment_id or '')}")
    if report is not None:
        _say(console, f"report           {relative(str(report))}")
    if not whole:
        resume = command_line("search", "--name", config.name, "--resume")
        if plan.storage.uri != str(Path("studies").absolute()):
            resume += ["--storage", plan.storage.uri if plan.storage.is_remote else relative(plan.storage.uri)]
        ended = f"{len(trials)} of {config.trials} trials have ended"
        ended += f", and {len(lacking)} of the replicates have not" if lacking else ""
        _say(console, f"{ended}. To go on: {shlex.join(resume)}")
    if stop.interrupted:
        return 130
    if completed:
        return 0
    reason = next((trial.user_attrs[REASON] for trial in trials if REASON in trial.user_attrs), "the time was over")
    print(f"error: no trial of study {config.name} was completed: {first_line(reason)}", file=sys.stderr)
    return 1


def bring_evaluations(plan: Plan, study: optuna.Study, seconds: float, patience: float | None = None) -> bool:
    """Copies the evaluations of all trials and replicates here from an object store: see `wait_for_all`."""
    seen = {t.number: max(t.intermediate_values) for t in study.get_trials(deepcopy=False) if t.intermediate_values}
    steps = {plan.folder.trial(number): step for number, step in seen.items()}
    more = kept_replicates(study).values()
    steps |= {RunFolder(plan.folder.path / mine.place): mine.step for mine in more if mine.step >= 0}
    return wait_for_all(plan.storage, steps, seconds, patience)


def _write_winner(plan: Plan, winner: FrozenTrial, writer: StudyWriter) -> str | None:
    run = plan.folder.trial(winner.number)
    with plan.storage.present(run.config), plan.storage.present(run.weights):
        winning_file(
            read_schedule_file(run.config),
            study=plan.config.name,
            trial=winner.number,
            run_id=writer.runs.get(winner.number),
            val_losses=[(row["step"], row["val_loss"]) for row in run.rows()],
            facts=facts(plan.data.sha256),
        ).write(plan.folder.best_schedule)
        if not isinstance(plan.data, Corpus) or task_name(plan.config.training) == SENTENCES:
            return None  # no language model
        return write_sample(run, plan.data)


def _write_report(plan: Plan, study: optuna.Study, writer: StudyWriter, console: Console) -> Path | None:
    try:
        with console.status("making the report"):
            from study.report.write import FIGURES, report_session  # what draws takes seconds to import

            page = report_session(plan.config, plan.folder, plan.storage.uri, study, plan.uri, writer)
            plan.uploads.put(page, *(page.parent / FIGURES).iterdir())
            return page
    except Exception as error:  # the study is over and kept, and study.report can be asked again
        log.warning("the report could not be made: %s: %s", type(error).__name__, error)
        return None


def _value(completed: FrozenTrial) -> float:
    loss = loss_of(completed)
    assert loss is not None  # Optuna refuses to complete a trial without
    return loss


def _completed(folder: StudyFolder, trials: Sequence[FrozenTrial], replicates: Replicates) -> list[CompletedTrial]:
    rows = [folder.trial(trial.number).rows() for trial in trials]
    rates = [[row["dropout_rate"] for row in mine] for mine in rows]
    groups = [kin(parts_of(trial.user_attrs)) for trial in trials]
    expected = expected_losses(rates, [_value(trial) for trial in trials], groups)
    return [
        CompletedTrial(
            best_val_loss=_value(trial),
            number=trial.number,
            schedule=describe(trial.user_attrs),
            best_step=best_row(mine)["step"],
            expected_loss=loss,
            mean=mean_of_seeds(_value(trial), replicates.get(trial.number, ())),
            seconds=seconds_of(trial),
        )
        for trial, mine, loss in zip(trials, rows, expected, strict=True)
    ]


def _front(trials: Sequence[CompletedTrial]) -> list[CompletedTrial]:
    return pareto_front(
        trials, loss=lambda t: t.best_val_loss, seconds=lambda t: t.seconds or 0.0, number=lambda t: t.number
    )


def _ui(uri: str, experiment_id: str) -> str:
    if (pages := web_address(uri)) is not None:
        return pages + view_path(experiment_id)
    mlflow = "mlflow" if shutil.which("mlflow") else shlex.join([relative(sys.executable), "-m", "mlflow"])
    path = sqlite_path(uri)
    shown = sqlite_uri(Path(relative(str(path)))) if path is not None else uri
    named = shlex.quote(shown) if redacted(uri) == uri else '"$MLFLOW_TRACKING_URI"'  # it holds a password
    store = "" if is_ui_default(uri) else f" --backend-store-uri {named}"
    return f"{mlflow} ui{store}\n                 then open http://127.0.0.1:5000{view_path(experiment_id)}"


def _say(console: Console, line: str) -> None:
    console.print(printable(line), highlight=False, markup=False, soft_wrap=True)
