"""What MLflow's pages show first: the trials, best first, with their rates above their losses."""

import base64
import json
import time
import zlib
from collections.abc import Mapping
from typing import Any

from study.base.names import Key
from study.base.uris import web_address

NAME = "trials"
TAG = f"mlflow.sharedViewState.{NAME}"
"""MLflow's own tag of a saved view. Its format belongs to the pages (seen in 3.17); others pass it over."""


def view_tag() -> str:
    """Returns the value of TAG."""
    state = {
        "searchFilter": "tags.role = 'trial'",
        "orderByKey": "metrics.`best_val_loss`",
        "orderByAsc": True,
        "selectedColumns": [
            "metrics.`best_val_loss`",
            "tags.`outcome`",
            *(f"params.`schedule.{name}`" for name in ("kind", "rate", "initial_rate", "final_rate", "decay")),
        ],
        "compareRunCharts": [_line_chart("val_loss"), _line_chart("dropout_rate")],
        "compareRunSections": [
            {
                "uuid": "study",
                "name": "Losses and rates",
                "display": True,
                "isReordered": False,
                "deleted": False,
                "isGenerated": False,
            }
        ],
        "runsHiddenMode": "SHOW_ALL",  # the pages' own default draws ten runs only
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {"name": "Trials, best first", "createdAt": int(time.time() * 1000), "state": f"deflate;{packed}"}
    return json.dumps(view)


def view_path(experiment_id: str) -> str:
    """Returns the path of the page that opens on the view, as a chart."""
    query = f"workflowType=machine_learning&viewStateShareKey={NAME}&compareRunsMode=CHART"
    return f"/#/experiments/{experiment_id}/runs?{query}"


def run_addresses(uri: str, experiment_id: str, runs: Mapping[Key, str]) -> dict[int, str]:
    """Returns where a browser finds each run, by its trial's number; none if the store is no server."""
    pages = web_address(uri)
    page = f"{pages}/#/experiments/{experiment_id}/runs/"
    return {key: page + run_id for key, run_id in runs.items() if pages and isinstance(key, int)}


def _line_chart(metric: str) -> dict[str, Any]:
    return {
        "type": "LINE",
        "uuid": metric,
        "metricSectionId": "study",
        "deleted": False,
        "isGenerated": False,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "step",
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "scaleType": "linear",
        "displayPoints": False,
    }
