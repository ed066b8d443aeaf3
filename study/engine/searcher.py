"""The adapter between a source of runs, which is the truth about them, and Ray Tune."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ray.tune.search import Searcher

from study.base.errors import WorldError
from study.base.names import METRIC, SECONDS, Key, Outcome
from study.engine.run_source import Ending, Listener, RunSource, Signal
from study.engine.run_spec import RunSpec
from study.engine.worker_messages import DISK, DIVERGED, FAILED, TRACEBACK, WARNINGS

log = logging.getLogger(__name__)
T = TypeVar("T")


def whenever_asked(running: int) -> bool:
    """Lets a run begin, however many run."""
    return True


class RunSearcher(Searcher):
    """Gives Tune the runs of a source, and tells the source and listeners how each went.

    Runs that have no end when Tune ends stay without one, for the next session. Nothing of it lives in Ray's files.

    `is_over` says whether no run is to begin any more. `broken` is why the session cannot go on, as a full disk; then
    the source hears nothing more, since what Tune would say of the runs after that is not true of them.

    Args:
        may_begin: is asked before each run, with the number of those that run; while it says no, Tune gets none.
    """

    def __init__(
        self,
        source: RunSource,
        listeners: Sequence[Listener],
        may_begin: Callable[[int], bool] = whenever_asked,
    ) -> None:
        super().__init__(metric=METRIC, mode="min")
        self._source, self._listeners, self._may_begin = source, listeners, may_begin
        self.broken: BaseException | None = None
        self.is_over: Callable[[], bool] = lambda: False
        self._runs: dict[str, RunSpec] = {}  # by Tune's trial id, those that run
        self._last: dict[Key, Mapping[str, Any]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Returns the config of the next run; None if none may begin now, FINISHED when none will any more."""
        if self.is_over():
            return Searcher.FINISHED  # while Tune waits for a trial, it looks at nothing else
        return self._unless_broken(lambda: self._suggest(trial_id))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Takes an evaluation. After a restart some come again: the listeners hear of them, the source does not."""
        self._unless_broken(lambda: self._take(self._runs[trial_id], result))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the source how a run ended: completed, stopped early at the step it reached, or failed."""
        if not error:  # else `on_trial_error` comes, which knows why
            self._unless_broken(lambda: self._complete(trial_id, result or {}))

    def on_trial_error(self, trial_id: str, traceback: str) -> None:
        """Tells the source that a run's worker has died for good."""
        reason = "its worker died, again and again, without a new checkpoint"
        ending = Ending(outcome=Outcome.FAILED, reason=reason, traceback=traceback)
        self._unless_broken(lambda: self._end(self._runs.pop(trial_id), ending))

    def on_trial_lost(self, trial_id: str) -> None:
        """Takes back a run that has no end, to give it again."""
        self._source.give_back(self._runs.pop(trial_id))

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: the source is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing: the source is the truth."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its searcher; nothing is ever read from that

    def _unless_broken(self, work: Callable[[], T]) -> T | None:
        if self.broken is None:
            try:
                return work()
            except Exception as error:  # Tune would take it for a failure of the run
                self.broken = error
        return None

    def _suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if not self._may_begin(len(self._runs)):
            return None
        spec = self._source.next()
        if spec is Signal.DONE and not self._runs:
            return Searcher.FINISHED
        if isinstance(spec, Signal):
            return None
        self._runs[trial_id] = spec
        self._last.setdefault(spec.key, self._source.seen(spec.key))
        for listener in self._listeners:
            listener.run_started(spec)
        return {"number": spec.key, "protected": spec.protected, "group": spec.group, "spec": spec}

    def _take(self, spec: RunSpec, result: Mapping[str, Any]) -> None:
        last = self._last[spec.key]
        for warning in result.get(WARNINGS, ()):
            log.warning("%s: %s", spec.title, warning)
        if DISK in result:
            raise WorldError(result[DISK])
        if FAILED in result:
            kept = {key: result[key] for key in (FAILED, TRACEBACK, DIVERGED) if key in result}
            self._last[spec.key] = {**last, **kept}
            return
        for listener in self._listeners:
            listener.run_progressed(spec, result)
        if result["step"] > last.get("step", -1):
            self._source.progressed(spec.key, result)
        if result["step"] >= last.get("step", -1):
            self._last[spec.key] = result

    def _complete(self, trial_id: str, result: Mapping[str, Any]) -> None:
        spec = self._runs[trial_id]
        if {DISK, FAILED, "step"} & result.keys() and (
            result.get("step") != self._last[spec.key].get("step") or FAILED in result
        ):
            self._take(spec, result)  # the one at which it was stopped comes only here
        last = self._last[spec.key]
        if FAILED in last:
            ending = Ending(
                outcome=Outcome.FAILED,
                reason=last[FAILED],
                traceback=last.get(TRACEBACK),
                diverged=DIVERGED in last,
            )
        elif last.get("step") == spec.training.steps:
            ending = Ending(outcome=Outcome.COMPLETED, value=last[METRIC], seconds=last.get(SECONDS))
        else:
            ending = Ending(outcome=Outcome.STOPPED_EARLY)
        self._end(spec, ending)
        del self._runs[trial_id]

    def _end(self, spec: RunSpec, ending: Ending) -> None:
        self._source.ended(spec.key, ending)
        for listener in self._listeners:
            listener.run_ended(spec, ending)
