"""One session of a confirmation: runs what it lacks, through Ray as trials are run, and writes down what came out."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console

from study.base.errors import first_line
from study.base.names import METRIC, PARENT_RUN, Outcome, Role
from study.base.provenance import facts
from study.base.sealed_files import copy_of
from study.base.uris import kept
from study.confirm.arms import BASELINE, Arm
from study.confirm.looks import Looks, follow
from study.confirm.options import ConfirmOptions
from study.confirm.plan import (
    ConfirmationConfig,
    ConfirmationFolder,
    Run,
    arm_runs,
    arm_seeds,
    chosen_arms,
    fetch_runs,
    possible_arms,
    sweep_runs,
)
from study.confirm.results import Results, Row, best_rate, by_seed, is_complete, run_rows, with_times
from study.confirm.settled import store_uri
from study.confirm.show import show_verdict
from study.confirm.verdict import judge
from study.confirm.verdict_file import read_verdict, write_verdict
from study.confirm.wording import after_look
from study.engine.display import Display, duration
from study.engine.run_source import Ending, ListedRuns
from study.engine.run_spec import flat
from study.engine.session import Session, SessionPlan, open_session
from study.engine.start_up import check_device, start_machines, try_machines
from study.records.lock import StudyLock
from study.records.storage import Storage
from study.tasks.data import load_data
from study.tracking.client import check
from study.training.built_in import is_plain, unit_of
from study.training.config import TrainingConfig
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
    uri = store_uri(config, folder, options)
    check(uri, create=False)
    config = replace(config, tracking_uri=kept(uri, None if storage.is_remote else folder.path.parent))
    with console.status("reading the data") as reading:
        data = load_data(config.training, folder.task, config.corpus_sha256, reading.update)
    with console.status("starting Ray"):
        gpus = start_machines(options, storage, uri, config.device)
        machines = try_machines(options, gpus, len(sweep_runs(config, folder)), config.training, {}, data)
    check_device(config.study, config.device, machines.estimate)
    folder.make()

    def write_config() -> None:
        folder.write_config(config)
        plan.uploads.put(folder.config, copy_of(folder.config))

    plan = SessionPlan(
        study=config.study,
        root=folder.path.parent,
        path=folder.path,
        storage=storage,
        uploads=folder.uploads(storage),
        lock=lock or StudyLock(folder.lock, folder.title),
        lock_path=folder.lock,
        machines=machines,
        uri=uri,
        parent=Role.CONFIRMATION,
        title="confirmation",
        go_on="give the same command again",
        sent_by="when the command is run again",
    )
    with open_session(plan, write_config, console) as session:
        params = flat({"top": config.top, "sweep_seeds": config.sweep_seeds, "training": asdict(config.training)})
        tags = facts(config.corpus_sha256) | {"seeds": str(config.seeds)}  # more of them may be asked for later
        session.start(params, tags, NOTE)
        status = _Confirmation(config, folder, session).run()
        session.finish("FINISHED" if status == 0 else "FAILED")
        return status


class _Confirmation:
    def __init__(self, config: ConfirmationConfig, folder: ConfirmationFolder, session: Session) -> None:
        self._config, self._folder, self._session = config, folder, session

    def run(self) -> int:
        config, folder = self._config, self._folder
        sweep = sweep_runs(config, folder)
        self._announce(sweep)
        if not self._train("sweep of constant rates", sweep):
            return 130
        rate = best_rate([self._rows(run)[0] for run in sweep])
        if rate is None:
            reason = first_line(next(iter(self._session.recorder.reasons.values()), "unknown"))
            print(f"error: no run of the constant rate's sweep was completed: {reason}", file=sys.stderr)
            return 1
        chosen, same_as = chosen_arms(config, rate)
        runs, looks = list[Run](), None
        for taken, (begin, end) in enumerate(pairwise((0, *(config.looks or (config.seeds,)))), 1):
            asked = [arm for arm in chosen if looks is None or arm.name in (BASELINE, *looks.open)]
            more = arm_runs(config, folder, asked, begin, end)
            if not self._train("arms" if looks is None else f"arms in question, up to {end} seeds", more):
                return 130
            runs += more
            if config.looks:
                looks = self._look(runs, chosen, taken)
                if looks.stopped:
                    break
                self._keep(sweep, runs, chosen, same_as, looks)
        writer = self._session.writer
        writer.flush(self._session.patience())  # the tables are to name the runs
        verdict, written = self._keep(sweep, runs, chosen, same_as, looks)
        writer.artifacts(PARENT_RUN, [*written, folder.config])
        show_verdict(verdict, self._session.console)
        self._say(f"\ntables and verdict.json are in {folder.path}")
        return 1 if verdict["claim"] == "unknown" and not any(arm["n"] for arm in verdict["arms"]) else 0

    def _look(self, runs: Sequence[Run], chosen: Sequence[Arm], taken: int) -> Looks:
        """Judges the looks so far, and says what is still in question."""
        config = self._config
        rows = [self._rows(run)[0] for run in runs]
        losses = {arm.name: by_seed(rows, arm.name, METRIC) for arm in chosen}
        looks = follow(losses, chosen, BASELINE, arm_seeds(config), config.looks, config.smallest, taken)
        self._say(after_look(looks, unit_of(config.training)))
        return looks

    def _keep(
        self,
        sweep: Sequence[Run],
        runs: Sequence[Run],
        chosen: Sequence[Arm],
        same_as: Mapping[str, str],
        looks: Looks | None,
    ) -> tuple[dict[str, Any], list[Path]]:
        """Writes the tables and the verdict; returns the verdict and the files."""
        results, path = self._results(sweep, runs), self._folder.path
        verdict = self._judge(results, chosen, same_as, looks)
        written = [*results.write(path), write_verdict(verdict, path)]
        self._session.plan.uploads.put(*written)
        return verdict, written

    def _train(self, title: str, runs: Sequence[Run]) -> bool:
        """Trains the runs that are not complete; False if it was interrupted before all had ended."""
        config, folder, session = self._config, self._folder, self._session
        specs = {run.name: run.spec(folder.path.parent, config.training) for run in runs}
        lacking = [run for run in runs if not is_complete(run.folder)]
        for run in runs:
            if run not in lacking:
                session.recorder.describe_ended(specs[run.name], Ending(outcome=Outcome.COMPLETED))
        if not lacking:
            return True
        width = max(len(run.name) for run in lacking)
        self._say(f"{title}: {len(lacking)} runs")
        with Display(session.console, len(runs), config.training.steps, len(runs) - len(lacking), width) as display:
            try:
                session.run_set(ListedRuns(specs[run.name] for run in lacking), display)
            finally:
                session.recorder.pause_all()
                for run in lacking:
                    if run.folder.resume.exists():  # begun by an earlier session
                        session.recorder.pause(specs[run.name])
        fetch_runs(session.plan.storage, folder)
        if not session.stop.interrupted:
            return True
        done = sum(is_complete(run.folder) for run in runs)
        self._say(f"{done} of {len(runs)} runs of this part have ended. To go on, give the same command again")
        return False

    def _rows(self, run: Run) -> tuple[Row, list[Row]]:
        return run_rows(
            run.folder,
            Measures.read(run.folder.path),
            arm=run.arm,
            seed=run.seed,
            regularizer=run.regularizer,
            study=self._config.study,
            reason=self._session.recorder.reasons.get(run.name),
            run_id=self._session.writer.runs.get(run.name),
        )

    def _results(self, sweep: Sequence[Run], runs: Sequence[Run]) -> Results:
        found = [self._rows(run) for run in runs]
        return with_times(
            Results(
                evaluations=[row for _, evaluations in found for row in evaluations],
                runs=[row for row, _ in found],
                sweep=[self._rows(run)[0] for run in sweep],
            ),
            BASELINE,
        )

    def _judge(
        self, results: Results, chosen: Sequence[Arm], same_as: Mapping[str, str], looks: Looks | None
    ) -> dict[str, Any]:
        config = self._config
        papers = is_plain(config.training)
        warnings = ["runs shared a GPU: their times and sampling speeds mean nothing"] if config.packed else []
        return judge(
            results,
            chosen,
            baseline=BASELINE,
            same_as=same_as,
            warnings=warnings,
            corpus_sha256=config.corpus_sha256,
            whole=isinstance(config.training, TrainingConfig) and config.training.val_share == 1,
            before=read_verdict(self._folder.path),
            sequential=looks,
            unit=unit_of(config.training),
            papers=papers,
        )

    def _announce(self, sweep: Sequence[Run]) -> None:
        config, machines = self._config, self._session.plan.machines
        slots = machines.slots
        lacking = sum(not is_complete(run.folder) for run in sweep)
        rate = best_rate([self._rows(run)[0] for run in sweep]) if all(is_complete(r.folder) for r in sweep) else None
        chosen = possible_arms(config) if rate is None else chosen_arms(config, rate)[0]
        lacking += sum(not is_complete(run.folder) for run in arm_runs(config, self._folder, chosen))
        seconds = machines.estimate.seconds * (1 + MEASURING_SHARE) * -(-lacking // slots.count)
        bound = "at most" if config.looks else "about"
        where = f"{slots.count} at once on {'GPUs' if slots.gpus else 'CPU cores'}"
        self._say(
            f"confirmation of study {config.study}: {bound} {lacking} runs of {config.training.steps:,} steps, {where}"
            f": at most about {duration(seconds)}"
        )

    def _say(self, line: str) -> None:
        self._session.console.print(line, highlight=False, markup=False, soft_wrap=True)
