"""The figures of a report, each with a caption that explains it and gives its numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from study.base.figure_style import Drawing, both_widths
from study.report import arms, figures, parameters
from study.report.analysis import Analysis
from study.report.depth_map import draw_depths
from study.report.families import best_of_depths
from study.report.sentences import count, duration, joined, trial_in_words
from study.report.trials import Trial, best_so_far, pareto_front
from study.training.task_config import TaskConfig


@dataclass(frozen=True, kw_only=True)
class CaptionedFigure:
    """A figure and its caption."""

    drawing: Drawing
    caption: str


class ReportFigures:
    """The figures for which the study has data, by name, and a slice for each parameter."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._titles = {f"trial-{t.number}": trial_in_words(t) for t in analysis.trials}
        self.by_name: dict[str, CaptionedFigure] = {}
        self.slices: list[Drawing] = []
        if analysis.curves:
            self._add_comparison()
        if any(t.steps for t in analysis.trials):
            self._add_search()
        if analysis.families:
            self._add_families()
        if depths := best_of_depths(analysis.trials):
            self._add_depths(depths)
        self._add_parameters()
        if sum(rung.correlation is not None for rung in analysis.evaluations) > 1:
            self._add_rungs()
        if analysis.unshared:
            self._add_pareto()

    def drawings(self) -> list[Drawing]:
        """Returns all figures."""
        return [figure.drawing for figure in self.by_name.values()] + self.slices

    def _add(self, name: str, caption: str, draw: Callable[[float], Figure]) -> None:
        self.by_name[name] = CaptionedFigure(drawing=both_widths(name, caption, draw, self._titles), caption=caption)

    def _add_comparison(self) -> None:
        curves, verdict = self._analysis.curves, self._analysis.verdict
        whose = f"the {curves[0].arm}" if verdict is None else curves[0].arm
        caption = f"Above: the dropout rate of {whose}, over training. Below: validation losses of "
        if verdict is not None:
            all_arms = "all arms, but the controls of families" if self._analysis.explanations else "all arms"
            most = "up to " if len({c.seeds for c in curves}) > 1 else ""
            seeds = count(max(c.seeds for c in curves), "seed")
            caption += f"{all_arms}, means of {most}{seeds}; bands are one standard deviation."
        elif self._analysis.families:
            caption += "it and of the best trial of each other family, on the same seed."
        else:
            caption += "it and of the known good schedules, one trial each, on the same seed."
        caption += " The axis fits the last two thirds of the training: it cuts off the first fall of the losses."
        baseline = None if verdict is None else verdict["baseline"]
        self._add("rates-and-losses", caption, lambda width: arms.draw_rates_and_losses(curves, baseline, width))
        if verdict is not None and (compared := self._analysis.compared):
            alpha = float(verdict["alpha"])
            self._add(
                "differences",
                f"Best validation loss of each arm minus that of {baseline} on the same seeds and data: mean and 95 % "
                f"interval. Left of the line is better. In colour: p below {alpha:g} after Holm's correction, blue for "
                "better and orange for worse.",
                lambda width: arms.draw_differences(compared, str(baseline), alpha, width),
            )

    def _add_search(self) -> None:
        found = self._analysis
        caption = "Every trial's dropout rate over the steps, one panel per kind; "
        caption += (
            "none was completed."
            if found.winner is None
            else "a stronger colour means a lower loss. The thick line is the winner, trial "
            f"{found.winner.number}. Dashed grey: not completed, up to the step of its end."
        )
        self._add("schedules", caption, lambda width: figures.draw_schedules(found.trials, found.steps, width))
        best: dict[str, Trial] = {}
        for trial in found.best_first:
            best.setdefault(trial.kind, trial)
        caption = "Losses by kind of schedule. Filled: completed trials; the bar is their median. Hollow: trials that "
        caption += "did not complete, so their losses are not comparable."
        if best:
            listed = [f"{kind} {t.best_val_loss:.4f} (trial {t.number})" for kind, t in best.items()]
            caption += f" Best of each: {joined(listed)}."
        self._add("kinds", caption, lambda width: figures.draw_kinds(found.trials, width))
        history = best_so_far(found.trials)
        self._add(
            "best-so-far",
            "The line is the best loss of a completed trial so far, over trials and over their summed training time: "
            f"{duration(history[-1].train_seconds)} in all. Hollow: not completed. Triangles: losses above the axis.",
            lambda width: figures.draw_best_so_far(history, found.trials, width),
        )

    def _add_families(self) -> None:
        found = self._analysis
        controls = {r.kind: r.control.best_val_loss for r in found.families if r.control is not None}
        caption = "Losses by family. Filled: completed trials; the bar is their median. Hollow: not completed. "
        caption += (
            "The orange diamond is the best completed trial of standard dropout at the sites of the family's best."
        )
        self._add(
            "families",
            caption,
            lambda width: figures.draw_kinds(found.trials, width, lambda t: t.family_kind, controls),
        )
        if compared := found.against_controls:
            assert found.verdict is not None
            alpha = float(found.verdict["alpha"])
            self._add(
                "controls",
                "Best validation loss of each arm minus that of a simpler arm, on the same seeds and data: mean and "
                "95 % interval. Left of the line is better than the control. In colour: p below "
                f"{alpha:g} after Holm's correction over these comparisons.",
                lambda width: arms.draw_differences(compared, "the control", alpha, width),
            )

    def _add_depths(self, best: Sequence[Trial]) -> None:
        training = self._analysis.source.config.training
        if isinstance(training, TaskConfig):
            return  # whose layers are the model's own affair
        self._add(
            "depths",
            "Dropout rate of each layer over the training, for the best completed trial of each depth but uniform. "
            "Layer 1 is next to the input.",
            lambda width: draw_depths(best, training.n_layer, training.steps, width),
        )

    def _add_parameters(self) -> None:
        study, found = self._analysis.source.study, self._analysis.importance
        if study is None or found is None:
            return
        name, share = next(iter(found.shares.items()))
        caption = (
            f"{name} mattered most ({share:.2f} of 1), by Optuna's PED-ANOVA: how far the best tenth of "
            f"{found.completed} completed trials ({found.top} of them) differ from all in each parameter."
        )
        if found.top < parameters.FEW_IN_TOP:
            caption += f" Optuna advises at least {parameters.FEW_IN_TOP} in that tenth: this is only a hint."
        self.by_name["importances"] = CaptionedFigure(drawing=parameters.draw_importances(found), caption=caption)
        self.slices = parameters.draw_slices(study, found)

    def _add_rungs(self) -> None:
        found = self._analysis
        self._add(
            "rungs",
            "Spearman's rank correlation of best_val_loss at each evaluation with that at the end, over the "
            f"{count(len(found.best_first), 'trial')} that reached it. At 1 both orders are the same.",
            lambda width: figures.draw_rungs(found.evaluations, found.rungs, found.steps, width),
        )

    def _add_pareto(self) -> None:
        mine = self._analysis.unshared
        front = [f"trial {t.number} ({duration(t.train_seconds)}, {t.best_val_loss:.4f})" for t in pareto_front(mine)]
        caption = f"Best loss of {count(len(mine), 'completed trial')} against training time. On the front: "
        caption += f"{joined(front)}."
        if packed := len(self._analysis.best_first) - len(mine):
            caption += f" Left out: {packed} that shared a GPU, because sharing lengthens their times."
        self._add("pareto", caption, lambda width: figures.draw_pareto(mine, width))
