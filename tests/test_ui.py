"""Opens a study in a real `mlflow ui` with a real browser, as a user of the study would."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions

from tests.conftest import Study as FinishedStudy
from tests.pages import Pages, open_browser

pytestmark = pytest.mark.slow

SERVER_START_SECONDS = 120
WINDOW = {"width": 1400, "height": 900}
COMPARED_METRICS = ("val_loss", "dropout_rate")


class Study(NamedTuple):
    """What the store says, read without the server: the pages are compared with it."""

    client: MlflowClient
    experiment_id: str
    name: str
    parent: Run
    trials: Sequence[Run]

    def history(self, run_id: str, metric: str) -> dict[int, float]:
        return {point.step: point.value for point in self.client.get_metric_history(run_id, metric)}

    def pair(self) -> tuple[Run, Run]:
        """Two completed trials, with different schedules where the study has such a pair."""
        completed = [trial for trial in self.trials if trial.data.tags.get("outcome") == "completed"]
        assert len(completed) >= 2, "the study has no two completed trials to compare"
        first = completed[0]
        kind = first.data.params.get("schedule.kind")
        others = [trial for trial in completed[1:] if trial.data.params.get("schedule.kind") != kind]
        return first, (others or completed[1:])[0]


@pytest.fixture(scope="module")
def study(study_store: tuple[Path, str]) -> Study:
    directory, name = study_store
    client = MlflowClient(tracking_uri=f"sqlite:///{directory / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None, f"no experiment {name!r} in {directory}"
    parents = client.search_runs([experiment.experiment_id], "tags.role = 'study'")
    trials = client.search_runs([experiment.experiment_id], "tags.role = 'trial'", order_by=["attributes.start_time"])
    assert len(parents) == 1
    assert trials
    return Study(client, experiment.experiment_id, name, parents[0], trials)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def ui(study_store: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an `mlflow ui` started in the study's directory, with no store named to it."""
    directory, _ = study_store
    address = f"http://127.0.0.1:{(port := free_port())}"
    log = tmp_path_factory.mktemp("server") / "server.log"
    # A tracking URI left in the caller's environment would hide whether the bare command finds the study.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with log.open("wb") as output:
        # A session of its own, so that the workers of the server can be ended together with it.
        server = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + SERVER_START_SECONDS
        while not is_healthy(address):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"mlflow ui did not become ready:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.2)
        yield address
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(server.pid, number)
            except ProcessLookupError:
                break
            try:
                server.wait(timeout=15)
            except subprocess.TimeoutExpired:
                continue
        server.wait(timeout=15)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    with open_browser(tmp_path_factory.mktemp("profile")) as session:
        # The window size would include the browser's own bars; this sets the page's size.
        session.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {**WINDOW, "deviceScaleFactor": 1, "mobile": False}
        )
        yield session


@pytest.fixture
def pages(browser: WebDriver, ui: str, tmp_path: Path, request: pytest.FixtureRequest) -> Pages:
    folders = [tmp_path]
    if os.environ.get("SCREENSHOTS"):
        folders.append(Path(os.environ["SCREENSHOTS"]))
    # The UI keeps filters and views in the browser's storage: each test starts as a first visit does, but with the
    # assistant's panel, which opens by itself on a first visit and covers a quarter of the page, taken as seen.
    browser.get(f"{ui}/health")
    browser.execute_script(
        "localStorage.clear(); localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
    )
    return Pages(browser, ui, folders)


def check_values(study: Study, curves: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Every drawn point is a stored one, from step 0 to the last (the UI may thin out a long history between them)."""
    for (metric, run_id), curve in curves.items():
        stored = study.history(run_id, metric)
        assert len(stored) >= 2, f"{metric} has no curve in the store"
        assert curve["steps"][0] == min(stored) == 0
        assert curve["steps"][-1] == max(stored)
        for step, value in zip(curve["steps"], curve["values"], strict=True):
            assert value == pytest.approx(stored[step]), f"{metric} at step {step}"


def test_home_page_names_the_study(pages: Pages, study: Study) -> None:
    pages.open("")
    pages.wait(
        expected_conditions.visibility_of_element_located((By.LINK_TEXT, study.name)), f"a link to {study.name!r}"
    )
    pages.picture("home")


def test_runs_table_lists_every_trial(pages: Pages, study: Study) -> None:
    names = {trial.info.run_name for trial in study.trials}
    # Sorted by anything but the time of creation, the table is flat: children are not folded under their parent.
    pages.open(
        f"experiments/{study.experiment_id}/runs",
        workflowType="machine_learning",
        searchFilter="tags.role = 'trial'",
        orderByKey="metrics.`best_val_loss`",
        orderByAsc="true",
    )
    pages.wait(lambda _: names <= set(pages.run_names()), f"the trials {sorted(names)}")
    pages.wait_for_texts(f"{len(names)} matching runs")
    assert sorted(pages.run_names()) == sorted(names)
    pages.picture("trials")


def test_trials_unfold_under_the_study(pages: Pages, study: Study) -> None:
    names = {trial.info.run_name for trial in study.trials}
    parent = study.parent.info.run_name
    pages.open(f"experiments/{study.experiment_id}/runs", workflowType="machine_learning")
    pages.wait(lambda _: parent in pages.run_names(), f"the study's run {parent!r}")
    assert pages.run_names() == [parent], "children are expected to be folded at first"
    pages.click(f"//*[@role='row'][.//a[normalize-space()={json.dumps(parent)}]]//button", "a button to unfold it")
    pages.wait(lambda _: names <= set(pages.run_names()), f"the trials {sorted(names)}")
    pages.picture("unfolded")


def test_compare_page_leads_to_the_curves(pages: Pages, study: Study) -> None:
    pair = study.pair()
    for metric in COMPARED_METRICS:
        pages.open(
            "compare-runs",
            runs=json.dumps([trial.info.run_id for trial in pair]),
            experiments=json.dumps([study.experiment_id]),
        )
        pages.wait_for_texts("Comparing 2 Runs", *(trial.info.run_name for trial in pair))
        link = f"//a[normalize-space()='{metric}']"
        pages.wait(expected_conditions.presence_of_element_located((By.XPATH, link)), f"the metric {metric}")
        pages.picture("compared")
        pages.click(link, f"a link to {metric}")
        curves = pages.wait_for_curves(pair, [metric])
        pages.picture(f"compared-{metric}")
        check_values(study, curves)


def test_metric_page_draws_both_metrics(pages: Pages, study: Study) -> None:
    pair = study.pair()
    pages.open(
        "metric",
        runs=json.dumps([trial.info.run_id for trial in pair]),
        metric=json.dumps(COMPARED_METRICS[0]),
        experiments=json.dumps([study.experiment_id]),
        plot_metric_keys=json.dumps(COMPARED_METRICS),
        x_axis="step",  # the page's own default is the time since the run's start
    )
    curves = pages.wait_for_curves(pair, COMPARED_METRICS)
    pages.picture("metric-page")
    check_values(study, curves)


def test_chart_view_draws_a_chart_for_each_metric(pages: Pages, study: Study) -> None:
    pair = study.pair()
    quoted = ", ".join(f"'{trial.info.run_id}'" for trial in pair)
    pages.open(
        f"experiments/{study.experiment_id}/runs",
        workflowType="machine_learning",
        compareRunsMode="CHART",
        searchFilter=f"attributes.run_id IN ({quoted})",
        orderByKey="metrics.`best_val_loss`",
        orderByAsc="true",
    )
    # Charts out of sight are not drawn; narrowed down to the two asked for, both are in sight.
    search: WebElement = pages.wait(
        expected_conditions.element_to_be_clickable((By.CSS_SELECTOR, "input[placeholder='Search metric charts']")),
        "the search among charts",
    )
    search.send_keys(f"^({'|'.join(COMPARED_METRICS)})$")
    curves = pages.wait_for_curves(pair, COMPARED_METRICS)
    pages.picture("charts")
    check_values(study, curves)
    charts = {metric: {curve["chart"] for (name, _), curve in curves.items() if name == metric} for metric, _ in curves}
    assert all(len(indices) == 1 for indices in charts.values()), f"the trials of one metric share a chart: {charts}"
    assert len(set().union(*charts.values())) == len(COMPARED_METRICS), f"each metric has its own chart: {charts}"


def test_the_page_that_the_study_names_shows_its_trials(
    pages: Pages, study: Study, finished_study: FinishedStudy
) -> None:
    path = finished_study.output.partition("http://127.0.0.1:5000/#/")[2].split()[0]
    pages.open(path)
    names = {trial.info.run_name for trial in study.trials}
    pages.wait(lambda _: names <= set(pages.run_names()), f"the trials {sorted(names)}")
    curves = pages.wait_for_curves(study.trials, COMPARED_METRICS)
    pages.picture("named-page")
    check_values(study, curves)
    best_first = sorted(study.trials, key=lambda trial: trial.data.metrics["best_val_loss"])
    assert pages.run_names() == [trial.info.run_name for trial in best_first]
