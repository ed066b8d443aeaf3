"""What Optuna is asked and told: the adapter between its study, which is the truth, and Ray Tune."""

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from search_spaces import KNOWN_GOOD, SPACES
from study.base.errors import WorldError
from study.base.names import METRIC, TRIALS_PER_GPU, Outcome
from study.engine.sampler import make_sampler
from study.engine.worker_messages import DISK, DIVERGED, FAILED, TRACEBACK, WARNINGS
from study.records.optuna_study import KNOWN, REASON, SCHEDULE, STATES, unfinished
from study.records.uploads import Mirror

T = TypeVar("T")


class Listener(Protocol):
    """Who is told what happens to trials, by their Optuna number."""

    def trial_started(self, number: int, schedule: dict[str, Any], known_good: str | None) -> None: ...

    def trial_progressed(self, number: int, result: Mapping[str, Any]) -> None: ...

    def trial_warned(self, number: int, warning: str) -> None: ...

    def trial_ended(self, number: int, outcome: Outcome, reason: str | None, traceback: str | None) -> None: ...


def open_optuna_study(storage: optuna.storages.BaseStorage, name: str, sampler: str, seed: int) -> optuna.Study:
    """Opens an Optuna study, anew or again, with a sampler that has not been used yet."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    study = optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
    seed += len(study.get_trials(deepcopy=False))  # a resumed study must not draw the same numbers again
    study.sampler = make_sampler(sampler, seed)
    return study


def ask_known_good_first(study: optuna.Study, space: str) -> None:
    """Lets a study in which no trial has begun begin with its space's known good configurations."""
    trials = study.get_trials(deepcopy=False)
    if all(trial.state is TrialState.WAITING for trial in trials):
        waiting = {trial.user_attrs.get(KNOWN) for trial in trials}  # a session may have died while it put them there
        for name, parameters in KNOWN_GOOD[space].items():
            if name not in waiting:
                study.enqueue_trial(parameters, user_attrs={KNOWN: name})


def whenever_asked(running: int) -> bool:
    """Lets a trial begin, however many run."""
    return True


class StudySearcher(Searcher):
    """Gives Tune the trials that an Optuna study asks for, and tells the study how each went.

    Trials found unfinished are given first, as they are. Trials that are neither completed, nor stopped by the
    scheduler, nor failed, when Tune ends, stay unfinished, for --resume. Nothing of it lives in Ray's files.

    `trials` is how many it gives in all; when `is_over` says so, it gives no more. `broken` is why the session cannot
    go on, as a full disk; then nothing more is asked or told, since what Tune would say of the trials after that is not
    true of them.

    Args:
        may_begin: is asked before each, with the number of those that run; while it says no, Tune gets none.
        mirror: sends the study to where it is kept: no trial begins whose number that place does not know.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: str,
        steps: int,
        listener: Listener,
        may_begin: Callable[[int], bool] = whenever_asked,
        mirror: Mirror | None = None,
        trials_per_gpu: int = 1,
    ) -> None:
        super().__init__(metric=METRIC, mode="min")
        self._trials_per_gpu = trials_per_gpu
        self._study, self._space, self._steps, self._listener = study, space, steps, listener
        self.broken: BaseException | None = None
        self.trials: float = math.inf
        self.is_over: Callable[[], bool] = lambda: False
        self._given = 0
        self._may_begin, self._mirror = may_begin, mirror
        self._next: tuple[optuna.Trial, int] | None = None  # asked, and not given yet
        self._unfinished: Iterator[FrozenTrial] = iter(unfinished(study))
        self._numbers: dict[str, int] = {}  # by Tune's trial id
        self._trials: dict[int, optuna.Trial] = {}
        self._last: dict[int, Mapping[str, Any]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Returns the config of the next trial; None if none may begin now, FINISHED when none will any more."""
        if self.is_over():
            return Searcher.FINISHED  # while Tune waits for a trial, it looks at nothing else
        if self._given >= self.trials:
            return None if self._numbers else Searcher.FINISHED
        return self._unless_broken(lambda: self._suggest(trial_id))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Takes an evaluation. After a restart some come again: the listener hears of them, Optuna does not."""
        self._unless_broken(lambda: self._take(self._numbers[trial_id], result))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells Optuna how a trial ended: completed, stopped early at the step it reached, or failed."""
        if not error:  # else `on_trial_error` comes, which knows why
            self._unless_broken(lambda: self._complete(trial_id, result or {}))

    def on_trial_error(self, trial_id: str, traceback: str) -> None:
        """Tells Optuna that a trial's worker has died for good."""
        reason = "its worker died, again and again, without a new checkpoint"
        self._unless_broken(lambda: self._end(self._numbers.pop(trial_id), Outcome.FAILED, reason, traceback))

    def on_trial_lost(self, trial_id: str) -> None:
        """Takes back a trial that has no end, to give it again."""
        number = self._numbers.pop(trial_id)
        self._unfinished = itertools.chain([t for t in unfinished(self._study) if t.number == number], self._unfinished)
        self._given -= 1

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: the Optuna study is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing: the Optuna study is the truth."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its searcher; nothing is ever read from that

    def _unless_broken(self, work: Callable[[], T]) -> T | None:
        if self.broken is None:
            try:
                return work()
            except Exception as error:  # Tune would take it for a failure of the trial
                self.broken = error
        return None

    def _suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self._next is None:
            if not self._may_begin(len(self._numbers)):
                return None
            self._next = self._ask(), self._mirror.ask() if self._mirror else 0
        trial, asked = self._next
        if self._mirror and not self._mirror.has(asked):
            return None
        self._next = None
        self._given += 1
        schedule = trial.user_attrs[SCHEDULE]
        number = trial.number
        self._numbers[trial_id], self._trials[number] = number, trial
        known_good = trial.user_attrs.get(KNOWN)
        self._listener.trial_started(number, schedule, known_good)
        return {"number": number, "schedule": schedule, "protected": known_good is not None}

    def _ask(self) -> optuna.Trial:
        known = next(self._unfinished, None)
        trial = self._study.ask() if known is None else optuna.Trial(self._study, known._trial_id)
        if known is not None and (past := known.intermediate_values):
            self._last[trial.number] = {"step": max(past), METRIC: past[max(past)]}
        if SCHEDULE not in trial.user_attrs:  # a new one, or its driver died before it kept this: the same parameters
            trial.set_user_attr(SCHEDULE, SPACES[self._space](trial))
        if self._trials_per_gpu > trial.user_attrs.get(TRIALS_PER_GPU, 1):
            trial.set_user_attr(TRIALS_PER_GPU, self._trials_per_gpu)
        return trial

    def _take(self, number: int, result: Mapping[str, Any]) -> None:
        last = self._last.get(number, {})
        for warning in result.get(WARNINGS, ()):
            self._listener.trial_warned(number, warning)
        if DISK in result:
            raise WorldError(result[DISK])
        if FAILED in result:
            kept = {key: result[key] for key in (FAILED, TRACEBACK, DIVERGED) if key in result}
            self._last[number] = {**last, **kept}
            return
        self._listener.trial_progressed(number, result)  # before Optuna hears of it: then it cannot be forgotten
        if result["step"] > last.get("step", -1):
            self._trials[number].report(result[METRIC], result["step"])
        if result["step"] >= last.get("step", -1):
            self._last[number] = result

    def _complete(self, trial_id: str, result: Mapping[str, Any]) -> None:
        number = self._numbers[trial_id]
        if {DISK, FAILED, "step"} & result.keys():
            last = self._last.get(number, {})
            if result.get("step") != last.get("step") or FAILED in result:
                self._take(number, result)  # the one at which it was stopped comes only here
        last = self._last.get(number, {})
        if FAILED in last:
            self._end(number, Outcome.FAILED, last[FAILED], last.get(TRACEBACK), diverged=DIVERGED in last)
        elif last.get("step") == self._steps:
            self._end(number, Outcome.COMPLETED)
        else:
            self._end(number, Outcome.STOPPED_EARLY)
        del self._numbers[trial_id]

    def _end(
        self,
        number: int,
        outcome: Outcome,
        reason: str | None = None,
        traceback: str | None = None,
        diverged: bool = False,
    ) -> None:
        if reason is not None:
            self._trials[number].set_user_attr(REASON, reason)
        if diverged:
            self._trials[number].set_user_attr(DIVERGED, True)
        value = self._last[number][METRIC] if outcome is Outcome.COMPLETED else None
        self._study.tell(self._trials[number], value, state=STATES[outcome])
        self._listener.trial_ended(number, outcome, reason, traceback)
