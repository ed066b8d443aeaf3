"""The report of real studies, opened in a real browser, and recomputed from the table beside it."""

import base64
import json
import os
import re
import shutil
import signal
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By

from study.base.figure_style import PALETTE
from study.base.sealed_files import read_kept, write_kept
from study.report.fresh_seed import expected_losses
from study.training.evaluation_rows import SCHEMA
from tests.conftest import Study, run, start
from tests.pages import open_browser

pytestmark = pytest.mark.slow

FIGURES = {"rates-and-losses", "schedules", "kinds", "best-so-far", "importances", "rungs", "pareto"}
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}

SHOWN_FIGURES = """
return [...document.querySelectorAll('figure svg')].filter(svg => svg.checkVisibility()).map(svg => ({
  id: svg.closest('figure').id, width: svg.getBoundingClientRect().width, height: svg.getBoundingClientRect().height,
  paths: svg.querySelectorAll('path, use').length,
  text: Math.min(...[...svg.querySelectorAll('text')].map(text => text.getBoundingClientRect().height)),
  beyond: Math.max(...[...svg.querySelectorAll('text')].map(
    text => text.getBoundingClientRect().right - document.documentElement.clientWidth)),
}));
"""
TABLE = """
return [...document.querySelector('#trials').tBodies[0].rows].map(
  row => [...row.cells].map(cell => cell.dataset.value ?? cell.innerText.trim()));
"""

# As text these numbers would sort otherwise; and a trial that failed at once has no losses.
UNLIKE_TEXT = """
[...document.querySelector('#trials').tBodies[0].rows].forEach((row, i) => {
  row.cells[0].dataset.value = (i * 7) % 40;
  row.cells[1].dataset.value = i === 2 ? '' : row.cells[1].dataset.value;
});
"""


@pytest.fixture(scope="module")
def report(finished_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that the command writes of the real study."""
    page = tmp_path_factory.mktemp("report") / "page.html"
    done = run(["-m", "study.report", "--study", finished_study.name, "--output", str(page)], finished_study.folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert str(page) in done.stdout
    assert sorted(path.name for path in page.parent.iterdir()) == ["page.html", "trials.parquet"]
    return page


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    with open_browser(tmp_path_factory.mktemp("profile")) as session:
        yield session


def show(browser: WebDriver, page: Path, size: str = "desktop", scheme: str = "light") -> None:
    """Opens a page as on a device; whatever it asks of any network, or complains about, fails the test."""
    width, height = SIZES[size]
    phone = size == "phone"
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for log in ("browser", "performance"):
        browser.get_log(log)  # what came before
    browser.get(page.absolute().as_uri())
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in requested if not url.startswith("data:")] == [page.absolute().as_uri()]
    assert browser.get_log("browser") == []


def picture(browser: WebDriver, name: str) -> None:
    if os.environ.get("SCREENSHOTS"):
        taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        folder = Path(os.environ["SCREENSHOTS"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"report-{name}.png").write_bytes(base64.b64decode(taken["data"]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_shows_its_figures(browser: WebDriver, report: Path, size: str, scheme: str) -> None:
    show(browser, report, size, scheme)
    picture(browser, f"{size}-{scheme}")
    width = browser.execute_script("return document.documentElement.clientWidth")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    shown = browser.execute_script(SHOWN_FIGURES)
    assert {figure["id"] for figure in shown} - {""} == FIGURES
    for figure in shown:
        assert width * 0.25 < figure["width"] <= width
        assert figure["height"] > 90
        assert figure["paths"] > 3
        assert figure["text"] >= 11, "text that can be read"
        assert figure["beyond"] <= 0, f"text of {figure['id']} leaves the page"
    paper = PALETTE["paper"][scheme == "dark"]
    colour = "rgb({}, {}, {})".format(*bytes.fromhex(paper[1:]))
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == colour
    ink = browser.execute_script("return getComputedStyle(document.querySelector('#kinds text')).fill")
    assert ink != colour


def test_the_table_sorts_by_every_column(browser: WebDriver, report: Path) -> None:
    show(browser, report)
    heads = browser.find_elements(By.CSS_SELECTOR, "#trials thead th")
    browser.execute_script(UNLIKE_TEXT)
    before = browser.execute_script(TABLE)
    for i, head in enumerate(heads):
        button = head.find_element(By.TAG_NAME, "button")
        first = "descending" if head.get_attribute("aria-sort") == "ascending" else "ascending"
        for order in (first, {"ascending": "descending", "descending": "ascending"}[first]):
            button.click()
            assert [h.get_attribute("aria-sort") for h in heads if h.get_attribute("aria-sort")] == [order]
            rows = browser.execute_script(TABLE)
            assert sorted(map(str, rows)) == sorted(map(str, before)), "no row is lost or made"
            column = [row[i] for row in rows]
            empty = column.count("")
            assert column[len(column) - empty :] == [""] * empty, "at the bottom, whichever way"
            column = column[: len(column) - empty]
            values: list[Any] = column if head.get_attribute("data-type") == "text" else [float(x) for x in column]
            assert values == sorted(values, reverse=order == "descending")


def test_its_numbers_are_those_of_the_table_beside_it(browser: WebDriver, report: Path, finished_study: Study) -> None:
    beside = report.parent / "trials.parquet"
    assert pq.read_table(beside).schema.equals(SCHEMA)
    evaluations = pd.read_parquet(beside)
    theirs = pd.read_parquet(finished_study.folder / "studies" / finished_study.name / "trials.parquet")
    pd.testing.assert_frame_equal(evaluations, theirs)
    show(browser, report)
    by_trial = evaluations.groupby("trial")
    expected = {
        number: (
            mine.val_loss.min(), mine.step[mine.val_loss.idxmin()], mine.outcome.iloc[0].replace("_", " "),
            mine.val_loss.iloc[-1], mine.step.iloc[-1], mine.train_seconds.iloc[-1],
        )
        for number, mine in by_trial
    }  # fmt: skip
    heads = [head.text for head in browser.find_elements(By.CSS_SELECTOR, "#trials thead th")]
    rows = [dict(zip(heads, row, strict=True)) for row in browser.execute_script(TABLE)]
    shown = {
        int(row["trial"]): (
            float(row["best_val_loss"]), int(row["at step"]), row["outcome"], float(row["final val_loss"]),
            int(row["last step"]), float(row["train_seconds"]),
        )
        for row in rows
    }  # fmt: skip
    assert shown == expected
    completed = evaluations[evaluations.outcome == "completed"]
    best = completed.groupby("trial").val_loss.min()
    rates = [list(completed[completed.trial == number].dropout_rate) for number in best.index]
    with_fresh_seed = dict(zip(best.index, expected_losses(rates, list(best)), strict=True))
    for row in rows:
        if (loss := with_fresh_seed.get(int(row["trial"]))) is not None:
            assert float(row["expected with a fresh seed"]) == pytest.approx(loss)
    text = browser.execute_script("return document.body.innerText")
    assert f"the best of {len(best)} completed trials, on one seed" in text
    assert f"Trial {best.idxmin()}, " in text
    assert f"best_val_loss of {best.min():.4f}" in text
    assert f"python -m study.confirm --study {finished_study.name} --seeds 5 --top 3" in text
    then = completed[completed.step == 20].set_index("trial").best_val_loss  # the preset's only rung
    correlation = spearmanr(then, best[then.index]).statistic
    assert f"rank correlation {correlation:.2f} with the end, over the {len(best)} trials" in text
    times = completed.groupby("trial").train_seconds.max()
    front = [n for n in best.index if not any((times <= times[n]) & (best <= best[n]) & (best.index != n))]
    caption = browser.find_element(By.CSS_SELECTOR, "#pareto figcaption").text
    assert {int(n) for n in re.findall(r"trial (\d+)", caption)} == set(front)


def test_the_study_carries_the_report_and_its_figures(finished_study: Study, tmp_path: Path) -> None:
    (parent,) = finished_study.runs("study")
    client = finished_study.client
    names = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "figures", "optuna.journal"} <= names
    figures = {Path(file.path).name for file in client.list_artifacts(parent.info.run_id, "figures")}
    assert {f"{name}.svg" for name in FIGURES} <= figures
    for path in Path(client.download_artifacts(parent.info.run_id, "figures", str(tmp_path))).iterdir():
        assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert f"studies/{finished_study.name}/report.html" in finished_study.output


def test_a_report_from_mlflow_alone_says_the_same(finished_study: Study, report: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{finished_study.folder / 'mlflow.db'}"
    done = run(["-m", "study.report", "--study", finished_study.name, "--tracking-uri", uri], tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "trials.parquet"], "no store of its own"

    def words(page: Path) -> str:
        text = re.sub(r"<svg.*?</svg>|Made .*? by", "", page.read_text(), flags=re.DOTALL)
        return re.sub(r"--storage \S+", "", text)

    assert words(tmp_path / "report.html") == words(report)


def test_a_study_without_mlflow_has_a_report_still(finished_study: Study, tmp_path: Path) -> None:
    study = finished_study.folder / "studies" / finished_study.name
    copy = tmp_path / "studies" / finished_study.name
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    config = read_kept(copy / "study.yaml").decode()
    write_kept(copy / "study.yaml", config.replace(str(finished_study.folder), str(tmp_path)))
    done = run(["-m", "study.report", "--study", finished_study.name], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: the report has no links" in done.stderr
    assert not (tmp_path / "mlflow.db").exists()
    assert (copy / "report.html").exists()


def test_a_running_study_is_not_disturbed(browser: WebDriver, tmp_path: Path) -> None:
    arguments = ["--preset", "smoke", "--gpus", "0", "--trials", "500", "--name", "study"]
    process = start(["-m", "study.search", *arguments], tmp_path)
    assert process.stdout is not None
    try:
        ended = 0
        for line in process.stdout:
            ended += "completed" in line
            if ended == 3:
                break
        folder = tmp_path / "studies" / "study"
        os.kill(process.pid, signal.SIGSTOP)  # so that whatever changes from now on, the report has done
        before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        page = tmp_path / "page.html"
        done = run(["-m", "study.report", "--study", "study", "--output", str(page)], tmp_path)
        assert done.returncode == 0, done.stderr
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
        os.kill(process.pid, signal.SIGCONT)
        show(browser, page)
        text = browser.execute_script("return document.body.innerText")
        assert "This study is not over" in text
        assert "python -m study.search --name study --resume" in text
        assert "of 500 trials have ended" in text
        outcomes = set(pd.read_parquet(tmp_path / "trials.parquet").outcome.dropna())
        assert outcomes <= {"completed", "stopped_early"}
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_study_of_one_trial_says_so(browser: WebDriver, tmp_path: Path) -> None:
    done = run(["-m", "study.search", "--preset", "smoke", "--gpus", "0", "--trials", "1", "--name", "one"], tmp_path)
    assert done.returncode == 0, done.stderr
    show(browser, tmp_path / "studies" / "one" / "report.html")
    text = browser.execute_script("return document.body.innerText")
    assert "only one trial was completed" in text
    assert "Too few trials were completed" in text
    assert "no rank correlation can be given, for 1 completed trial" in text


# A space of a user's own, whose every suggestion the training refuses, in words that a page must not take as its own.
FOREIGN = """
import sys
from search_spaces import SPACES
from study.base.errors import exit_status
from study.search.__main__ import main
SPACES["dynamic_dropout"] = lambda trial: {"kind": "<script>document.title = 'taken over'</script><img src=x>"}
sys.exit(exit_status(lambda: main(sys.argv[1:])))
"""


def test_a_study_that_only_failed_says_why_and_runs_no_foreign_code(browser: WebDriver, tmp_path: Path) -> None:
    (tmp_path / "foreign.py").write_text(FOREIGN)
    done = run(["foreign.py", "--preset", "smoke", "--gpus", "0", "--trials", "2", "--name", "failed"], tmp_path)
    assert done.returncode == 1, done.stderr
    page = tmp_path / "studies" / "failed" / "report.html"
    show(browser, page)
    assert "No answer: all 2 trials failed." in browser.title
    text = browser.execute_script("return document.body.innerText")
    assert "kind of a schedule must be one of" in text
    assert "<script>document.title" in text, "shown, not run"
    assert len(browser.find_elements(By.TAG_NAME, "script")) == 1
    assert not browser.find_elements(By.TAG_NAME, "img")
