"""The page of a study that was confirmed, made from known numbers."""

import json
import re
from statistics import fmean, stdev
from typing import Any

import pytest

from study.base.names import Outcome
from study.records.study_layout import StudyConfig
from study.report.analysis import Analysis
from study.report.page import Report, make_report
from study.report.source import Confirmation, Source
from study.report.trials import TrialRecord
from study.training.config import PRESETS

LINEAR = {"kind": "linear", "initial_rate": 0.2, "final_rate": 0.0}
CONSTANT = {"kind": "constant", "rate": 0.2}
FOREIGN = "<script>alert(1)</script>"
STEPS = (0, 20, 40, 60)


def config(trials: int) -> StudyConfig:
    return StudyConfig(
        name="study", space="dynamic_dropout", preset="smoke", trials=trials, sampler="tpe", scheduler="asha", seed=1,
        grace_steps=20, corpus_sha256="", tracking_uri=None, optuna_storage=None, device="cpu",
        training=PRESETS["smoke"].training,
    )  # fmt: skip


def rows(schedule: dict[str, Any], end: float, **more: Any) -> list[dict[str, Any]]:
    losses = [4.0, 3.0, end, end + 0.1]
    return [
        {
            "schedule": json.dumps(schedule), "step": step, "dropout_rate": 0.1, "val_loss": loss,
            "best_val_loss": min(losses[: i + 1]), "train_seconds": step / 10, "seed": 1, "outcome": "completed",
            **more,
        }
        for i, (step, loss) in enumerate(zip(STEPS, losses, strict=True))
    ]  # fmt: skip


def measured(values: list[float]) -> dict[str, float]:
    return {
        "n": len(values), "mean": fmean(values), "sd": stdev(values), "low": min(values), "high": max(values),
    }  # fmt: skip


def arm(
    name: str, schedule: dict[str, Any], losses: list[float], difference: dict[str, float] | None
) -> dict[str, Any]:
    metrics = (
        "best_val_loss", "final_val_loss", "test_loss", "best_full_val_loss", "final_train_loss",
        "train_loss_dropout_off", "train_seconds", "sampling_tokens_per_second", "best_step",
    )  # fmt: skip
    return {
        "arm": name, "is": "an arm", "schedule": schedule, "n": len(losses), "failed": 0, "seconds_to_baseline": None,
        "difference": difference, "test_difference": None, **{metric: measured(losses) for metric in metrics},
    }  # fmt: skip


def source(
    subject: dict[str, Any] = LINEAR, trials_per_gpu: int = 1, trials: int = 2, said: dict[str, str] | None = None
) -> Source:
    difference = {"n": 3, "mean": -0.1, "low": -0.15, "high": -0.05, "p": 0.01, "p_holm": 0.02}
    better, worse = [1.9, 2.0, 2.1], [2.0, 2.1, 2.2]
    verdict = {
        "format": "dynamic-dropout-verdict/1", "verdict": f"Better, says {FOREIGN}.", "claim": "better",
        "subject": "top-1", "baseline": "best-constant", "metric": "best_val_loss", "alpha": 0.05, "seeds": [2, 3, 4],
        "arms": [arm("top-1", LINEAR, better, difference), arm("best-constant", CONSTANT, worse, None)],
        "same_as": {"paper-linear": "top-1"}, "sweep": [{"rate": 0.2, "n": 3, "best_val_loss": measured(worse)}],
        "paper": {"rows": [], "claims": [{"claim": "it is faster", "found": "it is not", "mechanism": "none"}]},
        "warnings": [FOREIGN, "there were verdicts with 3, 5 seeds before: p"], "looks": [3, 5],
        "published": {"someone": 1.4697},
    }  # fmt: skip
    runs = [
        row | {"seed": 2 + i}
        for name, schedule, losses in (("top-1", LINEAR, better), ("best-constant", CONSTANT, worse))
        for i, loss in enumerate(losses)
        for row in rows(schedule, loss, arm=name)
    ]
    runs += [row | {"seed": 9} for row in rows(LINEAR, 9.0, arm="top-1", outcome="failed")][:1]  # died at once
    return Source(
        config=config(trials),
        rows=rows(subject, 1.9, trial=0) + rows(CONSTANT, 2.0, trial=1),
        records={
            n: TrialRecord(outcome=Outcome.COMPLETED, trials_per_gpu=trials_per_gpu if n else 1) for n in range(2)
        },
        study=None,
        confirmation=Confirmation(verdict=verdict | (said or {}), rows=runs),
        facts={},
        pages={0: "https://host/#/experiments/1/runs/abc"},
    )


def words(report: Report) -> str:
    body = re.sub(r"<(style|svg|script).*?</\1>", "", report.html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).replace("&lt;", "<").replace("&gt;", ">").split())


@pytest.fixture(scope="module")
def report() -> Report:
    return make_report(source())


def test_the_verdict_comes_first(report: Report) -> None:
    text = words(report)
    assert text.index("Better, says") < text.index("3 seeds an arm") < text.index("The search")
    assert {"rates-and-losses", "differences"} <= report.figures.keys()
    assert "Not confirmed" not in text


def test_arms_carry_mean_deviation_difference_and_p(report: Report) -> None:
    text = words(report)
    assert "top-1 linear 0.2 to 0 3 2.0000 \u00b1 0.1000" in text.replace("&plusmn;", "\u00b1")
    assert "\u22120.1000 [\u22120.1500, \u22120.0500] 0.020" in text
    assert "Not trained twice: paper-linear, with the schedule of top-1." in text
    assert "It is faster" in text
    assert "Published, of this model: 1.4697 (someone)." in text
    assert text.count("3, 5 seeds") == 1
    assert "judged before" not in text


def test_a_failed_run_does_not_cut_its_arms_curve_short() -> None:
    assert [(c.arm, c.steps, c.seeds) for c in Analysis(source()).curves] == [
        ("top-1", STEPS, 3),
        ("best-constant", STEPS, 3),
    ]


def test_foreign_words_stay_words(report: Report) -> None:
    assert report.html.count("<script>") == 1
    assert words(report).count(FOREIGN) == 3, "as title, verdict and warning"
    assert FOREIGN not in "".join(report.figures.values())


def test_trials_lead_to_their_runs(report: Report) -> None:
    assert '<a href="https://host/#/experiments/1/runs/abc" rel="noreferrer">0</a>' in report.html
    assert report.html.count("<a href=") == 2, "and to trials.parquet"


def test_a_winner_found_since_is_named() -> None:
    assert "another winner since its confirmation, linear 0.5 to 0: confirm it again" in words(
        make_report(source(subject=LINEAR | {"initial_rate": 0.5}))
    )


def test_packed_trials_are_left_out_of_times() -> None:
    text = words(make_report(source(trials_per_gpu=2)))
    assert "Best loss of 1 completed trial against training time. On the front: trial 0 (6.0 s, 1.9000)." in text
    assert "Left out: 1 that shared a GPU" in text


def test_a_study_that_lacks_trials_says_so() -> None:
    assert "This study is not over: 2 of 5 trials have ended, 0 are under way" in words(make_report(source(trials=5)))


def test_a_verdict_with_a_headline_shows_its_figures_below() -> None:
    report = make_report(source(said={"headline": "A beats B.", "figures": "n = 3 seeds."}))
    assert "<h1>A beats B.</h1>" in report.html
    assert '<p class="facts">n = 3 seeds.</p>' in report.html
    assert "Better, says" not in report.html, "the sentence of both is not needed"


def test_an_arm_that_its_judge_steers_is_named(report: Report) -> None:
    assert "also steers" not in words(report)
    steered = source()
    assert steered.confirmation is not None
    steered.confirmation.verdict["arms"][0]["schedule"] = {
        "kind": "val_loss", "initial_rate": 0.2, "final_rate": 0.0, "factor": 0.5, "patience": 1, "min_delta": 0.0,
    }  # fmt: skip
    text = words(make_report(steered))
    assert "The validation loss that judges top-1 also steers the rate: compare test_loss." in text


def test_the_test_and_the_looks_are_explained_where_the_verdict_has_them(report: Report) -> None:
    assert "Smyth 2004" not in words(report), "an older verdict used another test"
    assert "Up to 3 seeds" not in words(report)
    looked = source()
    assert looked.confirmation is not None
    looked.confirmation.verdict.update(
        seed_sd=0.01,
        sequential={"plan": [2, 3], "smallest": 0.01, "stopped": "excluded", "open": [], "looks": [{"seeds": 2}]},
    )
    text = words(make_report(looked))
    assert "each arm's variance is moved towards the mean of all arms (Smyth 2004)" in text.replace("&#39;", "'")
    assert "Up to 3 seeds an arm" in text
    assert "The arms were judged after 2 seeds, by a plan for at most 3." in text
    assert "The confirmation stopped because no schedule can have such a gain." in text
