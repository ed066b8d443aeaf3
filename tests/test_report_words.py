"""What the report says of known trials, and how its figures look."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from study.base.figure_style import PALETTE, both_widths, figure, standalone
from study.base.names import Outcome
from study.base.uris import web_address
from study.report.rungs import rungs_at
from study.report.sentences import grace_period, ordinal, same_schedules, unconfirmed
from study.report.trials import Trial, TrialRecord
from study.tracking.view import run_addresses
from tests.test_report_data import trial


def test_figures_are_xml_follow_the_page_and_share_no_ids() -> None:
    def draw(width: float) -> Any:
        drawn = figure(width, 200)
        axes = drawn.subplots()
        (line,) = axes.plot([1, 2, 3], [3, 1, 2], color=PALETTE["accent"][0])
        line.set_gid("trial-1")
        axes.set_title("cost $1 or $2 & <b>")
        return drawn

    drawing = both_widths("name", 'says "so"', draw, {"trial-1": "<script>alert(1)</script>"})
    assert drawing.narrow is not None
    trees = [ET.fromstring(standalone(svg)) for svg in (drawing.wide, drawing.narrow)]
    ids = [[element.get("id") for element in tree.iter() if element.get("id")] for tree in trees]
    assert not set(ids[0]) & set(ids[1])
    assert trees[0].get("aria-label") == 'says "so"'
    texts = [element.text for element in trees[0].iter() if element.tag.endswith(("text", "title"))]
    assert "cost $1 or $2 & <b>" in texts
    assert "<script>alert(1)</script>" in texts
    assert not [element for element in trees[0].iter() if element.tag.endswith("script")]
    assert f"var(--accent,{PALETTE['accent'][0]})" in drawing.wide


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["ink", "muted", "accent", "orange", "teal", "purple", "gold", "grey"])
def test_text_can_be_read_on_its_paper(name: str, scheme: int) -> None:
    high, low = sorted((luminance(PALETTE[name][scheme]), luminance(PALETTE["paper"][scheme])), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 4.5, "WCAG AA"


def test_what_a_search_alone_says() -> None:
    assert unconfirmed([], {})[0].startswith("No answer yet")
    assert unconfirmed([trial(0, [2.0], None)], {})[0].startswith("No answer yet")
    failed = Trial(
        number=0, record=TrialRecord(outcome=Outcome.FAILED, reason="diverged: nan\nmore"),
        schedule={"kind": "constant"}, steps=(), dropout_rates=(), val_losses=(), best_val_losses=(), train_seconds=0,
    )  # fmt: skip
    sentence, worth = unconfirmed([failed], {})
    assert sentence == "No answer: the only trial failed."
    assert worth.endswith("diverged: nan")
    sentence, worth = unconfirmed([trial(0, [2.0])], {})
    assert "only one trial was completed" in sentence
    assert "biased" not in worth
    three = [trial(0, [2.0]), trial(1, [1.5]), trial(2, [1.0], Outcome.STOPPED_EARLY)]
    sentence, worth = unconfirmed(three, {})
    assert sentence.startswith("Not confirmed: a constant schedule is the best of 2 completed trials, on one seed")
    assert "Trial 1, constant 0.1, reached a best_val_loss of 1.5000" in worth
    assert "biased low" in worth
    assert "give a higher loss. It is" in worth
    assert "give about 1.8000, judged by similar trials. It is" in unconfirmed(three, {0: 1.9, 1: 1.8})[1]
    worth = unconfirmed(three, {0: 1.7, 1: 1.8})[1]
    assert "With another seed trial 0, constant 0.1, is expected to be lower: 1.7000. " in worth


@pytest.mark.parametrize(
    ("flipped", "advice"), [(False, "no reason to wait longer"), (True, "say little about the end")]
)
def test_what_the_rungs_say_about_the_grace_period(flipped: bool, advice: str) -> None:
    trials = [trial(i, [4.0, 3.5 + (-i if flipped else i) / 10, 1.0 + i / 10]) for i in range(5)]
    found = rungs_at([10], trials)
    (words,) = grace_period(found, found, "asha")
    assert f"rank correlation {-1 if flipped else 1:.2f} with the end, over the 5 trials" in words
    assert "only a hint" in words
    assert advice in words
    assert grace_period(found, found, "none")[0].startswith("This study stopped no trial early")


def test_small_words() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 21, 112)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "21st", "112th",
    ]  # fmt: skip
    assert (
        same_schedules({"a": "x", "b": "x", "c": "y"}) == "a and b, with the schedule of x; c, with the schedule of y"
    )


@pytest.mark.parametrize(
    "uri", ["https://user:secret@host:5000/mlflow/", "https://user:se%40c@host:5000/mlflow?token=t"]
)
def test_links_hold_no_password(uri: str) -> None:
    assert run_addresses(uri, "1", {3: "abc"}) == {3: "https://host:5000/mlflow/#/experiments/1/runs/abc"}


def test_only_servers_have_pages() -> None:
    assert web_address("sqlite:////tmp/mlflow.db") is None
    assert run_addresses("sqlite:////tmp/mlflow.db", "1", {3: "abc"}) == {}
