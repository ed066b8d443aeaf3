"""What Optuna is asked and told: the adapter between its study, which is the truth, and Ray Tune."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from search_spaces import KNOWN_GOOD, SPACES
from study.errors import UserError
from study.tracking.names import TRIALS_PER_GPU, Outcome
from study.uris import redacted, sqlite_path

METRIC = "best_val_loss"
"""What Optuna minimises and ASHA compares, at equal steps."""
STATES = {
    Outcome.COMPLETED: TrialState.COMPLETE,
    Outcome.STOPPED_EARLY: TrialState.PRUNED,
    Outcome.FAILED: TrialState.FAIL,
}
SCHEDULE, KNOWN, REASON = "schedule", "known_good", "reason"
"""User attributes of an Optuna trial: its schedule's dict, what a known good one is called, why it failed."""


class Listener(Protocol):
    """Who is told what happens to trials, by their Optuna number."""

    def trial_started(self, number: int, schedule: dict[str, Any], known_good: str | None) -> None: ...

    def trial_progressed(self, number: int, result: Mapping[str, Any]) -> None: ...

    def trial_ended(self, number: int, outcome: Outcome, reason: str | None, traceback: str | None) -> None: ...


def open_storage(database: str | None, journal: Path) -> optuna.storages.BaseStorage:
    """Opens the storage of an Optuna study: a database by its URL, or the journal in the study's folder."""
    return (
        optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
        if database is None
        else open_database(database)
    )


def open_database(url: str) -> optuna.storages.BaseStorage:
    """Opens an Optuna database. Raises UserError if it does not work."""
    try:
        return optuna.storages.RDBStorage(url)
    except Exception as error:  # whatever the database's driver raises, it is the URL that does not work
        reason = redacted((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]
        raise UserError(f"--optuna-storage {redacted(url)} cannot be used ({reason}): give a database URL") from None


def check_database(url: str) -> None:
    """Looks whether an Optuna database can be used, without creating an SQLite file. Raises UserError."""
    path = sqlite_path(url)
    if path is None or path.exists():
        open_database(url)
    elif not path.parent.is_dir():
        raise UserError(f"--optuna-storage {url} cannot be used: there is no folder {path.parent}")


def open_optuna_study(storage: optuna.storages.BaseStorage, name: str, sampler: str, seed: int) -> optuna.Study:
    """Opens an Optuna study, anew or again, with a sampler that has not been used yet."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    study = optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
    seed += len(study.get_trials(deepcopy=False))  # a resumed study must not draw the same numbers again
    if sampler == "random":
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        # Conditional parameters join the model only as groups; trials that run count as bad, so as not to repeat them.
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    return study


def ask_known_good_first(study: optuna.Study, space: str) -> None:
    """Lets a study without trials begin with its space's known good configurations."""
    if not study.get_trials(deepcopy=False):
        for name, parameters in KNOWN_GOOD[space].items():
            study.enqueue_trial(parameters, user_attrs={KNOWN: name})


class StudySearcher(Searcher):
    """Gives Tune the trials that an Optuna study asks for, and tells the study how each went.

    Trials found unfinished are given first, as they are. Trials that are neither completed, nor stopped by the
    scheduler, nor failed, when Tune ends, stay unfinished, for --resume. Nothing of it lives in Ray's files.
    """

    def __init__(
        self, study: optuna.Study, space: str, steps: int, listener: Listener, trials_per_gpu: int = 1
    ) -> None:
        super().__init__(metric=METRIC, mode="min")
        self._trials_per_gpu = trials_per_gpu
        self._study, self._space, self._steps, self._listener = study, space, steps, listener
        self._unfinished = iter(unfinished(study))
        self._numbers: dict[str, int] = {}  # by Tune's trial id
        self._trials: dict[int, optuna.Trial] = {}
        self._last: dict[int, Mapping[str, Any]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Returns the config of the next trial."""
        known = next(self._unfinished, None)
        trial = self._study.ask() if known is None else optuna.Trial(self._study, known._trial_id)
        if known is not None and (past := known.intermediate_values):
            self._last[trial.number] = {"step": max(past), METRIC: past[max(past)]}
        schedule = trial.user_attrs.get(SCHEDULE)
        if schedule is None:  # a new trial, or one whose driver died before it kept this: it gets the same parameters
            schedule = SPACES[self._space](trial)
            trial.set_user_attr(SCHEDULE, schedule)
        if self._trials_per_gpu > trial.user_attrs.get(TRIALS_PER_GPU, 1):
            trial.set_user_attr(TRIALS_PER_GPU, self._trials_per_gpu)
        number = trial.number
        self._numbers[trial_id], self._trials[number] = number, trial
        known_good = trial.user_attrs.get(KNOWN)
        self._listener.trial_started(number, schedule, known_good)
        return {"number": number, "schedule": schedule, "protected": known_good is not None}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Takes an evaluation.

        After a restart the last one comes again. The listener hears of it again too: it may have died before it passed
        it on. Earlier ones, of a worker that went back to an older checkpoint, are passed over.
        """
        number = self._numbers[trial_id]
        last = self._last.get(number, {})
        if "failed" in result:
            self._last[number] = {**last, **{key: result[key] for key in ("failed", "traceback") if key in result}}
        elif result["step"] >= last.get("step", -1):
            if result["step"] > last.get("step", -1):
                self._trials[number].report(result[METRIC], result["step"])
            self._last[number] = result
            self._listener.trial_progressed(number, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells Optuna how a trial ended: completed, stopped early at the step it reached, or failed."""
        if result is not None and ("failed" in result or "step" in result):
            last = self._last.get(self._numbers[trial_id], {})
            if result.get("step") != last.get("step") or "failed" in result:
                self.on_trial_result(trial_id, result)  # the one at which it was stopped comes only here
        number = self._numbers.pop(trial_id)
        last = self._last.get(number, {})
        if error:
            self._end(number, Outcome.FAILED, "its worker died, again and again")
        elif "failed" in last:
            self._end(number, Outcome.FAILED, last["failed"], last.get("traceback"))
        elif last.get("step") == self._steps:
            self._end(number, Outcome.COMPLETED)
        else:
            self._end(number, Outcome.STOPPED_EARLY)

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: the Optuna study is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing: the Optuna study is the truth."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its searcher; nothing is ever read from that

    def _end(self, number: int, outcome: Outcome, reason: str | None = None, traceback: str | None = None) -> None:
        if reason is not None:
            self._trials[number].set_user_attr(REASON, reason)
        value = self._last[number][METRIC] if outcome is Outcome.COMPLETED else None
        self._study.tell(self._trials[number], value, state=STATES[outcome])
        self._listener.trial_ended(number, outcome, reason, traceback)


def unfinished(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trials that were begun and have no end: those that a resumed study goes on with."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trials that have ended, however they did."""
    return study.get_trials(deepcopy=False, states=tuple(STATES.values()))
