"""All that a report has to say of a study, found once."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from study.base.names import Outcome
from study.engine.display import describe
from study.engine.early_stopping import rungs
from study.report import sentences
from study.report.data import (
    Curve,
    Edge,
    Rung,
    Trial,
    alone,
    arm_curve,
    make_trials,
    ranked,
    rungs_at,
    trial_curve,
)
from study.report.parameters import Importance, importance, winner_edges
from study.report.source import Source


class Findings:
    """What the figures draw and the page says; `source` is where it comes from."""

    def __init__(self, source: Source) -> None:
        self.source, self.steps = source, source.config.training.steps
        self.trials = make_trials(source.rows, source.notes)
        self.best_first = ranked(self.trials)
        self.winner: Trial | None = next(iter(self.best_first), None)
        self.verdict = source.confirmation.verdict if source.confirmation else None

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return sum(note.outcome is not None for note in self.source.notes.values())

    @property
    def unfinished(self) -> bool:
        """Whether the study lacks trials."""
        return self.ended < self.source.config.trials

    @cached_property
    def rungs(self) -> list[Rung]:
        """What ASHA saw, or would have seen."""
        return rungs_at(rungs(self.steps, self.source.config.grace_steps), self.trials)

    @cached_property
    def evaluations(self) -> list[Rung]:
        """What each evaluation between the first and the last told of the end."""
        return rungs_at(sorted({step for t in self.trials for step in t.steps if 0 < step < self.steps}), self.trials)

    @cached_property
    def edges(self) -> list[Edge]:
        """The winner's parameters at an end of their range."""
        return [] if self.source.study is None else winner_edges(self.source.study)

    @cached_property
    def importance(self) -> Importance | None:
        """Optuna's importances."""
        return None if self.source.study is None else importance(self.source.study)

    @cached_property
    def alone(self) -> list[Trial]:
        """The completed trials whose time is their own."""
        return alone(self.trials)

    @property
    def arms(self) -> dict[str, Mapping[str, Any]]:
        """The arms of the confirmation."""
        return {} if self.verdict is None else {arm["arm"]: arm for arm in self.verdict["arms"]}

    @property
    def compared(self) -> list[Mapping[str, Any]]:
        """The arms that were compared with the baseline, best first."""
        found = [arm for arm in self.arms.values() if arm["difference"] is not None]
        return sorted(found, key=lambda arm: arm["difference"]["mean"])

    @cached_property
    def curves(self) -> list[Curve]:
        """The winner's curve and those of the controls: of the confirmation, or of single trials."""
        if self.source.confirmation is None:
            if self.winner is None:
                return []
            known_good = [t for t in self.best_first if t.note.known_good and t is not self.winner]
            named = sorted(known_good, key=lambda t: t.number)
            return [
                trial_curve(f"winner, trial {self.winner.number}", self.winner),
                *(trial_curve(str(t.note.known_good), t) for t in named),
            ]
        by_arm: dict[str, list[Mapping[str, Any]]] = {}
        for row in self.source.confirmation.rows:
            if row["outcome"] == Outcome.FAILED:
                continue  # it would cut the arm's mean short
            by_arm.setdefault(str(row["arm"]), []).append(row)
        first = self.source.confirmation.verdict["subject"] or "top-1"
        names = sorted((name for name in self.arms if name in by_arm), key=lambda name: name != first)
        return [arm_curve(name, by_arm[name]) for name in names]

    def notices(self) -> list[str]:
        """Returns what one should know before reading on."""
        found: list[str] = list(self.verdict["warnings"]) if self.verdict else []
        if self.unfinished:
            begun = len(self.source.notes) - self.ended
            found.append(
                f"This study is not over: {self.ended} of {sentences.count(self.source.config.trials, 'trial')} have "
                f"ended, {begun} are under way or were broken off. All of this is of what there is so far."
            )
        failed = [t for t in self.trials if t.note.outcome is Outcome.FAILED]
        if failed and self.winner is not None:
            which = f"{sentences.count(len(failed), 'trial')} failed and count for nothing"
            found.append(f"{which}; the first: {sentences.reason(failed[0])}")
        confirmed = self.arms.get(self.verdict["same_as"].get("top-1", "top-1")) if self.verdict else None
        if confirmed is not None and self.winner is not None and confirmed["schedule"] != self.winner.schedule:
            now = describe(self.winner.schedule)
            found.append(f"The search has another winner since it was confirmed, {now}: confirm it again.")
        return found
