"""A study's report as one HTML page that needs nothing else, and its figures as files."""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from study.display import describe
from study.early_stopping import rungs
from study.provenance import utc_now
from study.report import arms, figures, parameters, words
from study.report.data import (
    Curve,
    Trial,
    alone,
    arm_curve,
    best_so_far,
    make_trials,
    pareto_front,
    ranked,
    rungs_at,
    trial_curve,
)
from study.report.source import Source
from study.report.style import FONT, SVG_RULES, Drawing, both_widths, standalone, variables
from study.tracking.names import Outcome


@dataclass(frozen=True, kw_only=True)
class Plate:
    """A figure with its caption."""

    drawing: Drawing
    caption: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The page, and each figure as an SVG file's text, by its name."""

    html: str
    figures: dict[str, str]


def make_report(source: Source, storage: str | None = None) -> Report:
    """Makes the report of a study. `storage` is where its folder lies, if that is not the default."""
    page = _Page(source)
    config, trials = source.config, page.trials
    environment = Environment(
        loader=PackageLoader("study.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"loss": _loss, "signed": _signed, "seconds": _seconds, "whole": _whole, "p": _p}
    script = files("study.report").joinpath("sort.js").read_text(encoding="utf-8")
    verdict = source.confirmation.verdict if source.confirmation else None
    sentence, worth = (verdict["verdict"], None) if verdict else words.unconfirmed(trials)
    html = environment.get_template("page.html").render(
        config=config,
        facts=source.facts,
        made=utc_now(),
        counted=words.counted(trials),
        verdict=verdict,
        sentence=sentence,
        worth=worth,
        confirm=words.confirm_command(config.name, storage) if page.winner else None,
        resume=words.resume_command(config.name, storage) if page.unfinished else None,
        notices=page.notices(),
        plates=page.plates(),
        slices=page.slices,
        differing=page.differing(),
        describe=describe,
        grace=page.grace(),
        edges=[words.edge_warning(edge) for edge in page.edges],
        has_parameters=source.study is not None,
        trials=sorted(trials, key=lambda t: (not t.steps, t.best_val_loss if t.steps else 0, t.number)),
        winner=page.winner,
        pages=source.pages,
        variables=variables(),
        svg_rules=SVG_RULES,
        font=FONT,
        style=files("study.report").joinpath("page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    drawn = [plate.drawing for plate in page.plates().values()] + page.slices
    return Report(html=html, figures={d.name: standalone(d.wide) for d in drawn})


class _Page:
    """What the page shows of a source. Every figure is drawn once."""

    def __init__(self, source: Source) -> None:
        self._source, self._steps = source, source.config.training.steps
        self.trials = make_trials(source.rows, source.notes)
        self.winner = next(iter(ranked(self.trials)), None)
        ended = sum(note.outcome is not None for note in source.notes.values())
        self.unfinished = ended < source.config.trials
        self._titles = {f"trial-{t.number}": _title(t) for t in self.trials}
        self.edges = [] if source.study is None else parameters.winner_edges(source.study)
        self.slices: list[Drawing] = []
        self._plates: dict[str, Plate] | None = None

    def notices(self) -> list[str]:
        """Returns what one should know before reading on."""
        found = list(self._source.confirmation.verdict.get("warnings", [])) if self._source.confirmation else []
        config = self._source.config
        if self.unfinished:
            ended = sum(note.outcome is not None for note in self._source.notes.values())
            open_ = len(self._source.notes) - ended
            found.append(
                f"This study is not over: {ended} of {words.count(config.trials, 'trial')} have ended, {open_} are "
                "under way or were broken off. All that follows is of what there is so far."
            )
        failed = [t for t in self.trials if t.note.outcome is Outcome.FAILED]
        if failed and self.winner is not None:
            reason = (failed[0].note.reason or "no reason was kept").splitlines()[0]
            found.append(f"{words.count(len(failed), 'trial')} failed and count for nothing; the first: {reason}")
        if self._stale():
            found.append("The study has another winner since it was confirmed: confirm it again.")
        return found

    def _stale(self) -> bool:
        confirmed = self._arms().get("top-1")
        return confirmed is not None and self.winner is not None and confirmed["schedule"] != self.winner.schedule

    def _arms(self) -> dict[str, Mapping[str, Any]]:
        if self._source.confirmation is None:
            return {}
        return {arm["arm"]: arm for arm in self._source.confirmation.verdict["arms"]}

    def differing(self) -> list[Mapping[str, Any]]:
        """Returns the arms that were compared with the baseline, best first."""
        compared = [arm for arm in self._arms().values() if arm["difference"] is not None]
        return sorted(compared, key=lambda arm: arm["difference"]["mean"])

    def grace(self) -> list[str]:
        """Returns what early losses told of the end."""
        config = self._source.config
        return words.grace_period(
            rungs_at(rungs(config.training.steps, config.grace_steps), self.trials), self._everywhere(), config.scheduler
        )

    def plates(self) -> dict[str, Plate]:
        """Returns the figures that there is something to draw for."""
        if self._plates is None:
            self._plates = dict(self._draw())
        return self._plates

    def _draw(self) -> dict[str, Plate]:
        found: dict[str, Plate] = {}

        def add(name: str, caption: str, draw: Callable[[float], Any]) -> None:
            found[name] = Plate(drawing=both_widths(name, caption, draw, self._titles), caption=caption)

        seen, completed = [t for t in self.trials if t.steps], ranked(self.trials)
        curves, baseline = self._curves()
        if curves:
            add("rates-and-losses", self._curves_caption(curves), lambda w: arms.draw_rates_and_losses(curves, baseline, w))
        if compared := self.differing():
            add(
                "differences",
                f"Best validation loss of each arm, less that of {baseline} on the same seeds and data: mean and 95 % "
                "interval. Left of the line is better. In colour: p below 0.05 after Holm's correction.",
                lambda w: arms.draw_differences(compared, str(baseline), w),
            )
        if seen:
            add("schedules", self._schedules_caption(), lambda w: figures.draw_schedules(self.trials, self._steps, w))
            add("kinds", self._kinds_caption(), lambda w: figures.draw_kinds(self.trials, w))
            history = best_so_far(self.trials)
            add(
                "best-so-far",
                "The line is the best loss of a completed trial so far, over trials and over the training time that "
                f"all of them took: {_seconds(history[-1].train_seconds)} in all. Hollow: not completed.",
                lambda w: figures.draw_best_so_far(history, self.trials, w),
            )
        if self._source.study is not None and (found_importance := parameters.importance(self._source.study)):
            shares = list(found_importance.shares.items())
            caption = (
                f"{shares[0][0]} mattered most ({shares[0][1]:.2f} of 1), by Optuna's PED-ANOVA: how far the best tenth "
                f"of {found_importance.completed} completed trials ({found_importance.top} of them) differ from all in "
                "each parameter."
            )
            if found_importance.top < 5:
                caption += " Optuna advises at least five in that tenth: take it as a hint."
            drawing = parameters.draw_importances(self._source.study, found_importance)
            found["importances"] = Plate(drawing=drawing, caption=caption)
            self.slices = parameters.draw_slices(self._source.study, found_importance)
        everywhere = self._everywhere()
        if sum(rung.correlation is not None for rung in everywhere) > 1:
            config = self._source.config
            marked = rungs_at(rungs(config.training.steps, config.grace_steps), self.trials)
            add(
                "rungs",
                "Spearman's rank correlation of best_val_loss at each evaluation with that at the end, over the "
                f"{words.count(len(completed), 'trial')} that reached it. 1: the order is the same already.",
                lambda w: figures.draw_rungs(everywhere, marked, self._steps, w),
            )
        if mine := alone(self.trials):
            add("pareto", self._pareto_caption(mine), lambda w: figures.draw_pareto(mine, w))
        return found

    def _everywhere(self) -> list[Any]:
        steps = sorted({step for t in self.trials for step in t.steps if 0 < step < self._steps})
        return rungs_at(steps, self.trials)

    def _curves(self) -> tuple[list[Curve], str | None]:
        """Returns the curves to compare, the winner's first, and the name of the baseline."""
        if self._source.confirmation is None:
            if self.winner is None:
                return [], None
            controls = [t for t in self.trials if t.note.known_good and t.completed() and t is not self.winner]
            name = self.winner.note.known_good or describe(self.winner.schedule)
            others = [trial_curve(str(t.note.known_good), t) for t in controls]
            return [trial_curve(f"winner: {name}", self.winner), *others], None
        verdict = self._source.confirmation.verdict
        by_arm: dict[str, list[Mapping[str, Any]]] = {}
        for row in self._source.confirmation.rows:
            by_arm.setdefault(str(row["arm"]), []).append(row)
        names = [name for name in self._arms() if name in by_arm]
        first = verdict.get("subject") or "top-1"
        names.sort(key=lambda name: name != first)
        return [arm_curve(name, by_arm[name]) for name in names], verdict["baseline"]

    def _curves_caption(self, curves: Sequence[Curve]) -> str:
        above = f"Above: the dropout rate of {curves[0].arm} over training. Below: validation losses"
        left_out = "The fall of the first quarter of the steps is left out of the frame."
        if self._source.confirmation is None:
            return f"{above} of the winner and the known good schedules, one trial each on the same seed. {left_out}"
        seeds = max(curve.seeds for curve in curves)
        return (
            f"{above}, mean of {words.count(seeds, 'seed')}; the bands are one standard deviation. {left_out}"
        )

    def _schedules_caption(self) -> str:
        caption = "Every trial's dropout rate over the steps, a panel a kind; "
        if self.winner is None:
            return caption + "none was completed."
        return caption + (
            f"the darker, the lower the loss. The thick line is the winner, trial {self.winner.number}. Dashed grey: not "
            "completed, up to the step of its end."
        )

    def _kinds_caption(self) -> str:
        completed = ranked(self.trials)
        best: dict[str, Trial] = {}
        for trial in completed:
            best.setdefault(trial.kind, trial)
        listed = words.joined([f"{kind} {trial.best_val_loss:.4f} (trial {trial.number})" for kind, trial in best.items()])
        counts = "Losses by kind of schedule. Filled: completed; the bar is their median. Hollow: not completed, so not comparable."
        return f"{counts} Best of each: {listed}." if listed else counts

    def _pareto_caption(self, mine: Sequence[Trial]) -> str:
        front = pareto_front(mine)
        listed = words.joined([f"trial {t.number} ({_seconds(t.train_seconds)}, {t.best_val_loss:.4f})" for t in front])
        caption = f"Best loss of {words.count(len(mine), 'completed trial')} against training time. On the front: {listed}."
        packed = len(ranked(self.trials)) - len(mine)
        if packed:
            caption += f" Left out: {packed} that shared a GPU, since sharing falsifies the time."
        return caption


def _title(trial: Trial) -> str:
    end = trial.note.outcome.value.replace("_", " ") if trial.note.outcome else "without an end yet"
    loss = f", best_val_loss {trial.best_val_loss:.4f}" if trial.steps else ""
    return f"trial {trial.number}: {describe(trial.schedule)}{loss}, {end}"


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _p(value: float | None) -> str:
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f} s" if value < 600 else f"{value / 60:.1f} min" if value < 36_000 else f"{value / 3600:.1f} h"
