"""The analysis behind a report: each result is computed once, for figures, captions and sentences."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from study.base.names import Outcome
from study.base.regularizers import parts_of
from study.engine.display import describe
from study.engine.early_stopping import rungs
from study.engine.equal_shares import EqualShares, group_of
from study.records.replicates import Replicate, kept_replicates
from study.report import sentences
from study.report.curves import Curve, arm_curve, trial_curve
from study.report.edges import Edge, winner_edges
from study.report.families import FamilyResult, family_results, importance_within
from study.report.fresh_seed import expected_losses, kin
from study.report.parameters import Importance, importance
from study.report.rungs import Rung, rungs_at
from study.report.source import Source
from study.report.stopping_price import StoppingPrice, stopping_prices, thinned
from study.report.task_metrics import metrics_table
from study.report.trials import Trial, make_trials, ranked, unshared

CONTROLS = ("control-", "gate-", "uniform-")
"""Beginnings of the names of arms that a figure of all arms has no room for."""


class Analysis:
    """The results of a study, computed from `source`."""

    def __init__(self, source: Source) -> None:
        self.source, self.steps = source, source.config.training.steps
        self.trials = make_trials(source.rows, source.records)
        self.best_first = ranked(self.trials)
        self.winner: Trial | None = next(iter(self.best_first), None)
        self.verdict = source.confirmation.verdict if source.confirmation else None

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return sum(record.outcome is not None for record in self.source.records.values())

    @property
    def unfinished(self) -> bool:
        """Whether the study has trials left to run."""
        return self.ended < self.source.config.trials

    @cached_property
    def replicates(self) -> list[Replicate]:
        """The replicates that were begun; none where Optuna's record is not available."""
        return [] if self.source.study is None else list(kept_replicates(self.source.study).values())

    @cached_property
    def expected(self) -> dict[int, float]:
        """The loss of each completed trial that a fresh seed would most likely give; nothing for too few trials."""
        rates = [t.dropout_rates for t in self.best_first]
        groups = [kin(t.regularizer) for t in self.best_first]
        found = expected_losses(rates, [t.best_val_loss for t in self.best_first], groups)
        return {t.number: loss for t, loss in zip(self.best_first, found, strict=True) if loss is not None}

    @cached_property
    def rungs(self) -> list[Rung]:
        """ASHA's rungs, or the rungs that it would have had."""
        return rungs_at(rungs(self.steps, self.source.config.grace_steps), self.trials)

    @cached_property
    def evaluations(self) -> list[Rung]:
        """Each step between the first and the last evaluation, as a rung."""
        return rungs_at(sorted({step for t in self.trials for step in t.steps if 0 < step < self.steps}), self.trials)

    @cached_property
    def stopping_prices(self) -> list[StoppingPrice]:
        """The price of early stopping, for some grace periods; nothing for too few completed trials."""
        config, study = self.source.config, self.source.study
        if study is None:  # only Optuna's record has the groups that early stopping compared
            groups = {trial.number: trial.family_kind for trial in self.trials}
        else:
            shares = EqualShares.of_space(config.space)
            groups = {trial.number: group_of(shares, trial.params) for trial in study.get_trials(deepcopy=False)}
        prices = stopping_prices(self.trials, self.steps, lambda trial: groups.get(trial.number, ""))
        return thinned(prices, config.grace_steps)

    @cached_property
    def edges(self) -> list[Edge]:
        """The winner's parameters that lie at an end of their range."""
        return [] if self.source.study is None else winner_edges(self.source.study)

    @cached_property
    def importance(self) -> Importance | None:
        """Optuna's importances."""
        return None if self.source.study is None else importance(self.source.study)

    @cached_property
    def families(self) -> list[FamilyResult]:
        """The result of each family; none if the study has one only."""
        return family_results(self.trials)

    @cached_property
    def importance_within(self) -> dict[str, Importance | None]:
        """Optuna's importances among the trials of each family."""
        study = self.source.study
        return {} if study is None else importance_within(study, self.source.config.space)

    @property
    def explanations(self) -> list[Mapping[str, Any]]:
        """What the controls of the confirmation explain; verdicts of earlier versions have no such entry."""
        return [] if self.verdict is None else self.verdict.get("explanations", [])

    @property
    def against_controls(self) -> list[Mapping[str, Any]]:
        """The difference of each arm from each of its controls, best first, as `compared` has them."""
        found = [
            {"arm": f"{entry['arm']} - {control['arm']}", "difference": control["difference"]}
            for entry in self.explanations
            for control in entry["controls"]
        ]
        return sorted(found, key=lambda entry: entry["difference"]["mean"])

    @cached_property
    def task_metrics(self) -> list[list[str]]:
        """The table of the task's own metrics; nothing for a task that has none."""
        return metrics_table(self.source.config.training, self.source.rows, self.best_first)

    @cached_property
    def unshared(self) -> list[Trial]:
        """The completed trials that shared no GPU."""
        return unshared(self.trials)

    @property
    def arms(self) -> dict[str, Mapping[str, Any]]:
        """The arms of the confirmation."""
        return {} if self.verdict is None else {arm["arm"]: arm for arm in self.verdict["arms"]}

    @property
    def compared(self) -> list[Mapping[str, Any]]:
        """The arms that have a difference from the baseline, best first."""
        found = [arm for arm in self.arms.values() if arm["difference"] is not None]
        return sorted(found, key=lambda arm: arm["difference"]["mean"])

    @cached_property
    def curves(self) -> list[Curve]:
        """The curves of the winner and its controls: arms of the confirmation, or single trials."""
        if self.source.confirmation is None:
            if self.winner is None:
                return []
            curves = [trial_curve(f"winner, trial {self.winner.number}", self.winner)]
            if self.families:  # the best of each says more than two known good ones of each
                best = [result.best for result in self.families if result.best is not None]
                return curves + [trial_curve(f"best {t.family_kind}", t) for t in best if t is not self.winner]
            known_good = [t for t in self.best_first if t.record.known_good and t is not self.winner]
            named = sorted(known_good, key=lambda t: t.number)
            return curves + [trial_curve(str(t.record.known_good), t) for t in named]
        by_arm: dict[str, list[Mapping[str, Any]]] = {}
        for row in self.source.confirmation.rows:
            if row["outcome"] == Outcome.FAILED:
                continue  # its curve would shorten the arm's mean
            by_arm.setdefault(str(row["arm"]), []).append(row)
        first = self.source.confirmation.verdict["subject"] or "top-1"
        controls = {control["arm"] for entry in self.explanations for control in entry["controls"]}
        left_out = {name for name in controls if name.startswith(CONTROLS)}
        names = sorted(by_arm.keys() & self.arms.keys() - left_out, key=list(self.arms).index)
        names.sort(key=lambda name: name != first)
        return [arm_curve(name, by_arm[name]) for name in names]

    def notices(self) -> list[str]:
        """Returns the warnings that stand above the figures."""
        found: list[str] = list(self.verdict["warnings"]) if self.verdict else []
        if self.unfinished:
            begun = len(self.source.records) - self.ended
            found.append(
                f"This study is not over: {self.ended} of {sentences.count(self.source.config.trials, 'trial')} have "
                f"ended, {begun} are under way or were interrupted. This report covers the evaluations so far."
            )
        if going_on := [mine for mine in self.replicates if mine.outcome is None]:
            which = (
                f"{sentences.count(len(going_on), 'replicate')} {'has' if len(going_on) == 1 else 'have'} no end yet"
            )
            found.append(f"{which}: the winner may change.")
        lost = sorted({mine.trial for mine in self.replicates if mine.outcome is Outcome.FAILED})
        if lost:
            which = f"trial{'s' if len(lost) > 1 else ''} {sentences.joined([str(number) for number in lost])}"
            found.append(f"Replicates of {which} failed: trials without a mean rank behind those that have one.")
        failed = [t for t in self.trials if t.record.outcome is Outcome.FAILED]
        if failed and self.winner is not None:
            which = f"{sentences.count(len(failed), 'trial')} failed and have no loss"
            found.append(f"{which}; the first: {sentences.failure_reason(failed[0])}")
        if self.winner is not None and self.winner.best_step == 0:
            found.append(
                "The best trial was best before its first update: no training improved on the untrained model, and "
                "what is called the winner has won by its initial weights."
            )
        confirmed = self.arms.get(self.verdict["same_as"].get("top-1", "top-1")) if self.verdict else None
        if confirmed is not None and self.winner is not None and parts_of(confirmed) != self.winner.regularizer:
            now = describe(self.winner.regularizer)
            found.append(f"The search has found another winner since its confirmation, {now}: confirm it again.")
        return found
