"""Pages in a real browser, and MLflow's with waits that leave a picture behind when they fail."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlencode

import pytest
from mlflow.entities import Run
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

T = TypeVar("T")
PAGE_SECONDS = 45

# One entry per trace of every Plotly chart on the page. The trace carries the metric and the run it stands for; the
# width of its SVG line tells whether it was drawn at all (a constant metric has no height, so height is not asked).
CURVES_SCRIPT = """
return [...document.querySelectorAll('.js-plotly-plot')].flatMap((chart, index) =>
  (chart.data || []).map((trace, i) => {
    const full = (chart._fullData || [])[i];
    const line = full && chart.querySelector('.scatterlayer .trace' + full.uid + ' path.js-line');
    return {
      chart: index,
      metric: trace.metricKey || null,
      run: trace.uuid || null,
      steps: Array.from(trace.x || []),
      values: Array.from(trace.y || []),
      width: line ? line.getBoundingClientRect().width : 0,
    };
  }));
"""

RUN_LINKS_SCRIPT = """
return [...document.querySelectorAll('[role=row] a')].filter(a => a.checkVisibility()).map(a => a.innerText.trim());
"""


@contextmanager
def open_browser(profile: Path) -> Iterator[WebDriver]:
    """Opens a headless Chromium that logs what its pages request and complain about; skips where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        reason = "chromium or chromedriver is not installed (Debian packages chromium and chromium-driver)"
        # A test that only ever skips proves nothing, so the machine that must run it may not skip it.
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    options = Options()
    options.binary_location = chromium
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Both binaries are named, so Selenium looks for no others and downloads none.
    session = webdriver.Chrome(options=options, service=Service(driver))
    try:
        session.set_page_load_timeout(PAGE_SECONDS)
        yield session
    finally:
        session.quit()


@dataclass(frozen=True)
class Pages:
    """The browser on one server, with waits that leave a picture behind when they fail."""

    browser: WebDriver
    address: str
    folders: Sequence[Path]

    def open(self, path: str, **query: str) -> None:
        # Pages of the UI differ only after the '#'; without a blank page between them the browser would not reload,
        # and the state of the page before would leak into the next one.
        self.browser.get("about:blank")
        self.browser.get(f"{self.address}/#/{path}" + (f"?{urlencode(query, quote_via=quote)}" if query else ""))

    def wait(self, condition: Callable[[WebDriver], Literal[False] | T], what: str) -> T:
        try:
            return WebDriverWait(self.browser, PAGE_SECONDS, poll_frequency=0.2).until(condition)
        except TimeoutException:
            self.picture("failed")
            shown = self.text()
            pytest.fail(f"the page never showed {what}: {self.browser.current_url}\n{shown[:3000]}")

    def text(self) -> str:
        return str(self.browser.execute_script("return document.body.innerText"))

    def wait_for_texts(self, *texts: str) -> None:
        self.wait(lambda _: all(text in self.text() for text in texts), f"the texts {texts}")

    def run_names(self) -> list[str]:
        """The names in the table of runs, as far as the page shows them."""
        return list(self.browser.execute_script(RUN_LINKS_SCRIPT))

    def click(self, xpath: str, what: str) -> None:
        self.wait(expected_conditions.element_to_be_clickable((By.XPATH, xpath)), what).click()

    def wait_for_curves(self, runs: Sequence[Run], metrics: Sequence[str]) -> dict[tuple[str, str], dict[str, Any]]:
        """Waits until the page has drawn a line of each metric for each run; returns the lines by metric and run."""
        wanted = {(metric, run.info.run_id) for metric in metrics for run in runs}

        def drawn(session: WebDriver) -> dict[tuple[str, str], dict[str, Any]] | Literal[False]:
            curves = session.execute_script(CURVES_SCRIPT)
            found = {(curve["metric"], curve["run"]): curve for curve in curves if curve["width"] > 50}
            return found if wanted <= found.keys() else False

        curves = self.wait(drawn, f"curves of {' and '.join(metrics)} for {len(runs)} trials")
        return {key: curves[key] for key in sorted(wanted)}

    def picture(self, name: str) -> None:
        for folder in self.folders:
            folder.mkdir(parents=True, exist_ok=True)
            assert self.browser.save_screenshot(str(folder / f"{name}.png"))
