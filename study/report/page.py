"""Makes the report of a study: one HTML page that needs no other file, and its figures."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from study.base import figure_style as style
from study.base.names import LOSS_AND_TIME, NATS
from study.base.provenance import utc_now
from study.engine.display import MEAN_OF_SEEDS, describe
from study.report import sentences
from study.report.analysis import Analysis
from study.report.captions import ReportFigures
from study.report.source import Source
from study.report.trials import pareto_front
from study.training.built_in import loss_sentence, unit_of


@dataclass(frozen=True, kw_only=True)
class Report:
    """The page, and the text of an SVG file for each figure, by name."""

    html: str
    figures: dict[str, str]


def make_report(source: Source, storage: str | None = None) -> Report:
    """Makes the report of a study. `storage` is the folder or URI of studies, if it is not the default."""
    analysis = Analysis(source)
    figures = ReportFigures(analysis)
    html = _environment().get_template("page.html").render(_context(analysis, figures, storage))
    return Report(html=html, figures={d.name: style.standalone(d.wide) for d in figures.drawings()})


def _context(analysis: Analysis, figures: ReportFigures, storage: str | None) -> dict[str, Any]:
    source, config, verdict = analysis.source, analysis.source.config, analysis.verdict
    expected = analysis.expected
    headline, worth = (_headline(verdict), None) if verdict else sentences.unconfirmed(analysis.trials, expected)
    script = _read("sort.js")
    return {
        "config": config,
        "facts": source.facts,
        "made": utc_now(),
        "verdict": verdict,
        "headline": headline,
        "verdict_figures": verdict.get("figures", "") if verdict else "",
        "worth": worth,
        "confirm": sentences.confirm_command(config.name, storage) if analysis.winner else None,
        "resume": sentences.resume_command(config.name, storage) if analysis.unfinished else None,
        "notices": analysis.notices(),
        "looks": sentences.looks(verdict.get("sequential"), verdict.get("unit", NATS)) if verdict else "",
        "test": sentences.TEST,
        "steered": sentences.steered_arms(verdict["arms"]) if verdict else "",
        "same": sentences.same_schedules(verdict["same_as"]) if verdict else "",
        "trial_counts": sentences.trial_counts(analysis.trials),
        "figures": figures.by_name,
        "slices": figures.slices,
        "families": analysis.families,
        "explanations": analysis.explanations,
        "within": sentences.within_families(analysis.importance_within),
        "grace": sentences.grace_period(analysis.rungs, analysis.evaluations, config.scheduler),
        "prices": analysis.stopping_prices,
        "trained": sentences.trained(config),
        "losses": loss_sentence(config.training),
        "price": sentences.stopping_price(analysis.stopping_prices, config.grace_steps, unit_of(config.training)),
        "unit": unit_of(config.training),
        "task_metrics": analysis.task_metrics,
        "edges": [sentences.edge_warning(edge) for edge in analysis.edges],
        "has_parameters": source.study is not None,
        "trials": sorted(analysis.trials, key=lambda t: (not t.steps, t.best_val_loss if t.steps else 0, t.number)),
        "winner": analysis.winner,
        "front": pareto_front(analysis.unshared) if config.objectives == LOSS_AND_TIME else [],
        "mean_of_seeds": MEAN_OF_SEEDS if any(t.mean is not None for t in analysis.trials) else "",
        "expected": expected,
        "pages": source.pages,
        "variables": style.variables(),
        "svg_rules": style.SVG_RULES,
        "font": style.FONT,
        "style": _read("page.css"),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _headline(verdict: Mapping[str, Any]) -> str:
    return str(verdict.get("headline", verdict["verdict"]))  # older files have the whole sentence only


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("study.report", "."),
        autoescape=True,  # names, schedules and reasons come from users and files
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "describe": describe,
        "outcome": sentences.outcome,
        "sentence": lambda text: text[:1].upper() + text[1:].removesuffix("."),
        "loss": _loss,
        "signed": _signed,
        "seconds": lambda value: "" if value is None else sentences.duration(value),
        "whole": _whole,
        "p": _p,
    }
    return environment


def _read(name: str) -> str:
    return files("study.report").joinpath(name).read_text(encoding="utf-8")


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _p(value: float | None) -> str:
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
