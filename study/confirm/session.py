"""One session of a confirmation: runs what it lacks, through Ray as trials are run, and writes down what came out."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import optuna
from rich.console import Console

from study.base.errors import UserError, WorldError, disk_error
from study.base.names import PARENT_RUN, Outcome, Role
from study.base.provenance import facts
from study.confirm.arms import BASELINE, Arm, arms
from study.confirm.options import ConfirmOptions
from study.confirm.plan import (
    ConfirmationConfig,
    ConfirmationFolder,
    Run,
    arm_runs,
    fetch_runs,
    sweep_runs,
)
from study.confirm.results import Results, Row, best_rate, is_complete, run_rows, with_times
from study.confirm.settled import store_uri
from study.confirm.show import show_verdict
from study.confirm.trial import ConfirmationJob
from study.confirm.verdict import judge, read_verdict, write_verdict
from study.corpus import load_corpus
from study.engine.cluster import Room, Slots, cluster_gpus, share_out, start_ray, stop_ray
from study.engine.display import Display, duration
from study.engine.memory_check import Estimate, check_memory, try_out
from study.engine.node_checks import check_nodes
from study.engine.recorder import Recorder
from study.engine.run_spec import flat
from study.engine.runner import Stop, run_trials
from study.engine.searcher import StudySearcher
from study.engine.shared_corpus import SharedCorpus, share
from study.engine.trial import trainable
from study.records.lock import StudyLock
from study.records.optuna_study import KNOWN, SCHEDULE
from study.records.storage import Storage, first_line
from study.records.uploads import Mirror
from study.tracking.client import check
from study.tracking.deadline import SEND_SECONDS, SEND_SECONDS_AFTER_ERROR, SEND_SECONDS_INTERRUPTED, Deadline
from study.tracking.writer import StudyWriter
from study.training.measures_file import Measures

NOTE = """Is a schedule of the study really better than the best constant rate? Each child run trains one arm (tag
`arm`) with one fresh seed (tag `seed`). `verdict.json` is the answer; `runs.parquet` and `evaluations.parquet` are what
it was computed from, and `sweep.parquet` is what the best constant rate was chosen from."""
MEASURING_SHARE = 0.3
"""What a confirmation's measures take beside a run's training and evaluations, roughly, on a small CPU preset."""


def confirm_study(
    config: ConfirmationConfig,
    storage: Storage,
    folder: ConfirmationFolder,
    lock: StudyLock | None,
    options: ConfirmOptions,
    console: Console,
) -> int:
    """Begins a confirmation, or goes on with it; returns the exit status.

    Args:
        lock: that it has already.

    Raises:
        UserError: a mistake, found before anything is made.
    """
    uri = store_uri(config, options)
    check(uri, create=False)
    corpus = load_corpus(config.training.corpus)
    if corpus.sha256 != config.corpus_sha256:
        raise UserError(f"corpus {config.training.corpus} has changed since the study began: put its old text back")
    with console.status("starting Ray"):
        start_ray(options.address)
        gpus = (0 if config.device == "cpu" else cluster_gpus()) if options.gpus is None else options.gpus
        check_nodes(storage, uri)
        slots = share_out(gpus, options.trials_per_gpu, len(sweep_runs(config, folder)), fixed=options.gpus is not None)
        shared_corpus = share(corpus)
        estimate = try_out(slots, config.training, {}, shared_corpus)
        check_memory(estimate, options.trials_per_gpu)
    if estimate.device != config.device:
        raise UserError(f"study {config.study} trained on {config.device}, and here is {estimate.device}: see --gpus")
    folder.make()
    with lock or StudyLock(folder.lock, folder.title):
        try:
            folder.write_config(config)
            stop = Stop(None)
            patience = lambda: SEND_SECONDS_INTERRUPTED if stop.interrupted else SEND_SECONDS  # noqa: E731
            with folder.mirror(storage).running(patience) as mirror:
                session = _Session(config, storage, folder, mirror, shared_corpus, slots, estimate, console)
                status = session.run(uri, stop)
            if storage.is_remote and mirror.is_whole:
                with suppress(OSError):  # then a session elsewhere waits a little, no more
                    storage.delete(folder.lock)
            return status
        except Exception as error:
            disk = disk_error(error)
            what = f"{folder.path} cannot be written: {disk}" if disk else str(error)
            if disk is not None or isinstance(error, WorldError):
                raise WorldError(f"{what}: nothing is lost; make space, then give the same command again") from None
            if storage.is_remote and isinstance(error, OSError) and error.errno is None:  # a store's own
                what = f"storage {storage.uri} does not answer ({first_line(error)})"
                raise WorldError(f"{what}: nothing is lost; give the same command again") from None
            raise


class _Session:
    def __init__(
        self,
        config: ConfirmationConfig,
        storage: Storage,
        folder: ConfirmationFolder,
        mirror: Mirror,
        corpus: SharedCorpus,
        slots: Slots,
        estimate: Estimate,
        console: Console,
    ) -> None:
        self._config, self._folder, self._corpus, self._console = config, folder, corpus, console
        self._slots, self._estimate = slots, estimate
        self._storage, self._mirror = storage, mirror
        self._reasons: dict[str, str] = {}  # why runs failed, by name

    def run(self, uri: str, stop: Stop) -> int:
        config, folder = self._config, self._folder
        writer = StudyWriter(
            uri,
            config.study,
            folder.path,
            self._storage,
            parent=Role.CONFIRMATION,
            child=Role.CONFIRMATION_RUN,
        )
        try:
            with stop.on_signals():
                params = flat(
                    {"top": config.top, "sweep_seeds": config.sweep_seeds, "training": asdict(config.training)}
                )
                tags = facts(config.corpus_sha256) | {"seeds": str(config.seeds)}  # more of them may be asked for later
                writer.start_study(params, tags, NOTE)
                status = self._run(writer, stop)
            writer.end_study("KILLED" if stop.interrupted else "FINISHED" if status == 0 else "FAILED")
            stop_ray()  # takes its second while the last is sent
            if not writer.close(self._patience(writer, stop)):
                message = "MLflow has not taken all yet: what it lacks is kept, and sent when the command is run again"
                self._console.print(message, style="yellow")
            return status
        except BaseException as error:  # the runs must not seem to go on
            if not writer.closed:
                writer.end_study("FAILED")
                writer.close(SEND_SECONDS_AFTER_ERROR)
            raise error

    def _patience(self, writer: StudyWriter, stop: Stop) -> Deadline:
        return stop.shortened(writer.patience(SEND_SECONDS), SEND_SECONDS_INTERRUPTED)

    def _run(self, writer: StudyWriter, stop: Stop) -> int:
        config, folder = self._config, self._folder
        sweep = sweep_runs(config, folder)
        self._announce(sweep)
        if not self._train("sweep of constant rates", sweep, writer, stop):
            return 130
        rate = best_rate([self._rows(run, writer)[0] for run in sweep])
        if rate is None:
            reason = next(iter(self._reasons.values()), "unknown").splitlines()[0]
            print(f"error: no run of the constant rate's sweep was completed: {reason}", file=sys.stderr)
            return 1
        chosen, same_as = arms(config.found, rate, config.training.steps)
        runs = arm_runs(config, folder, chosen)
        if not self._train("arms", runs, writer, stop):
            return 130
        writer.flush(self._patience(writer, stop))  # the tables are to name the runs
        results = self._results(sweep, runs, writer)
        verdict = self._judge(results, chosen, same_as)
        writer.artifacts(PARENT_RUN, [*results.write(folder.path), write_verdict(verdict, folder.path), folder.config])
        show_verdict(verdict, self._console)
        self._say(f"\ntables and verdict.json are in {folder.path}")
        return 1 if verdict["claim"] == "unknown" and not any(arm["n"] for arm in verdict["arms"]) else 0

    def _train(self, title: str, runs: Sequence[Run], writer: StudyWriter, stop: Stop) -> bool:
        """Trains the runs that are not complete; False if it was interrupted before all had ended."""
        config, folder = self._config, self._folder
        complete = [run for run in runs if is_complete(run.folder)]
        lacking = [run for run in runs if run not in complete]
        width = max((len(run.name) for run in lacking), default=0)
        names = [run.name.ljust(width) for run in lacking]
        display = Display(self._console, len(runs), config.training.steps, len(complete), names.__getitem__)
        specs = {run.name: run.spec(folder.path, config.training) for run in runs}
        recorder = Recorder(
            folder.path,
            lambda number, *_: specs[lacking[number].name],
            self._mirror,
            writer,
            display,
            "the confirmation was stopped",
        )
        for run in complete:
            recorder.describe_ended(specs[run.name], Outcome.COMPLETED)
        if not lacking:
            return True
        job = ConfirmationJob(
            storage=self._storage.uri,
            study=config.study,
            training=config.training,
            corpus=self._corpus,
            device=self._estimate.device,
            runs=lacking,
            places=[run.folder.path.relative_to(folder.path.parent) for run in lacking],
        )
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        asked = optuna.create_study()  # in memory: which runs are complete, their folders say
        for run in lacking:
            asked.enqueue_trial({}, user_attrs={SCHEDULE: run.schedule.to_dict(), KNOWN: run.arm})
        self._say(f"{title}: {len(lacking)} runs")
        with display:
            try:
                room = Room(self._slots)
                searcher = StudySearcher(asked, "", config.training.steps, recorder, room.has_more_than)
                run_trials(searcher, None, trainable(job), self._slots, len(lacking), stop, folder.ray)
            finally:
                recorder.pause_all()
                self._reasons |= recorder.reasons
        fetch_runs(self._storage, folder)
        if not stop.interrupted:
            return True
        done = sum(is_complete(run.folder) for run in runs)
        self._say(f"{done} of {len(runs)} runs of this part have ended. To go on, give the same command again")
        return False

    def _rows(self, run: Run, writer: StudyWriter) -> tuple[Row, list[Row]]:
        return run_rows(
            run.folder,
            Measures.read(run.folder.path),
            arm=run.arm,
            seed=run.seed,
            schedule=run.schedule,
            study=self._config.study,
            reason=self._reasons.get(run.name),
            run_id=writer.runs.get(run.name),
        )

    def _results(self, sweep: Sequence[Run], runs: Sequence[Run], writer: StudyWriter) -> Results:
        found = [self._rows(run, writer) for run in runs]
        return with_times(
            Results(
                evaluations=[row for _, evaluations in found for row in evaluations],
                runs=[row for row, _ in found],
                sweep=[self._rows(run, writer)[0] for run in sweep],
            ),
            BASELINE,
        )

    def _judge(self, results: Results, chosen: Sequence[Arm], same_as: Mapping[str, str]) -> dict[str, Any]:
        config = self._config
        warnings = ["runs shared a GPU: their times and sampling speeds mean nothing"] if config.packed else []
        return judge(
            results,
            chosen,
            baseline=BASELINE,
            same_as=same_as,
            warnings=warnings,
            corpus_sha256=config.corpus_sha256,
            whole=config.training.val_share == 1,
            before=read_verdict(self._folder.path),
        )

    def _announce(self, sweep: Sequence[Run]) -> None:
        config = self._config
        lacking = sum(not is_complete(run.folder) for run in sweep)
        chosen, _ = arms(config.found, 0.2, config.training.steps)  # whichever rate it will be, there are as many
        lacking += sum(not is_complete(run.folder) for run in arm_runs(config, self._folder, chosen))
        seconds = self._estimate.seconds * (1 + MEASURING_SHARE) * -(-lacking // self._slots.count)
        where = f"{self._slots.count} at once on {'GPUs' if self._slots.gpus else 'CPU cores'}"
        self._say(
            f"confirmation of study {config.study}: about {lacking} runs of {config.training.steps:,} steps, {where}: "
            f"at most about {duration(seconds)}"
        )

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
