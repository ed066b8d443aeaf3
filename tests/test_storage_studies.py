"""Whole studies that are kept on a real S3 server."""

import json
import re
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from study.records.expected_files import has_come
from study.records.storage import Storage
from study.records.study_layout import StudyFolder
from tests.conftest import run, start, wait_for_a_trial
from tests.services import KEYS, S3, wait_until

pytestmark = pytest.mark.slow


def test_a_study_is_confirmed_reported_and_resumed_where_it_is_kept(
    server: S3, storage: Storage, tmp_path: Path
) -> None:
    uri, tracking = storage.uri, f"sqlite:///{tmp_path / 'mlflow.db'}"

    def command(what: str, machine: str, *arguments: str) -> str:
        (folder := tmp_path / machine).mkdir(exist_ok=True)
        where = {"XDG_CACHE_HOME": str(folder / "cache"), "MLFLOW_TRACKING_URI": tracking}
        done = run(["-m", f"study.{what}", *arguments, "--storage", uri], folder, **KEYS | where)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    small = ["--preset", "smoke", "--gpus", "0", "--steps", "20", "--trials", "2"]
    command("search", "first", "--name", "study", *small)
    confirm = ["--study", "study", "--gpus", "0", "--top", "1", "--seeds", "1", "--sweep-seeds", "1"]
    first = command("confirm", "second", *confirm)
    assert first.count(" completed") > 12
    kept = storage.folder / "study" / "confirmation" / "verdict.json"
    verdict = json.loads(storage.read(kept) or b"")["verdict"]
    storage.delete(kept)
    again = command("confirm", "third", *confirm)
    assert verdict in again
    assert " completed" not in again, "what was trained is in the storage, and it is judged anew"
    command("report", "fourth", "--study", "study")
    page = (tmp_path / "fourth" / "report.html").read_text()
    assert "that the search had not seen" in page
    assert (tmp_path / "fourth" / "trials.parquet").exists()
    before = len(server.log.read_text())
    command("search", "fifth", "--name", "study", "--resume", "--trials", "3", "--gpus", "0")
    fetched = re.findall(rf"GET /studies/{tmp_path.name}/study/(\S+) HTTP/\S+ 20", server.log.read_text()[before:])
    assert {"study.yaml", "optuna.journal", "trials/00001/metrics.jsonl"} <= set(fetched)
    needless = re.compile(r"confirmation/|report|figures|resume|parquet|trials/00002/resume")
    assert not [path for path in fetched if needless.search(path)]
    assert len({path for path in fetched if path.endswith("safetensors")}) <= 2, "the winner's, and the new trial's"
    confirmations = MlflowClient(tracking).search_runs(["1"], "tags.role = 'confirmation_run'", max_results=1000)
    assert {run.info.status for run in confirmations} == {"FINISHED"}


def test_whoever_clears_the_local_cache_during_a_run_loses_nothing(storage: Storage, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    tracking = f"sqlite:///{tmp_path / 'mlflow.db'}"
    settings = KEYS | {"XDG_CACHE_HOME": str(cache), "MLFLOW_TRACKING_URI": tracking}
    command = ["-u", "-m", "study.search", "--name", "study", "--storage", storage.uri, "--gpus", "0"]
    new = ["--preset", "smoke", "--steps", "600", "--scheduler", "none", "--trials", "5"]
    process = start([*command, *new], tmp_path, **settings)
    try:
        wait_for_a_trial(process)
        wait_until(lambda: has_come(storage, StudyFolder(storage.folder, "study").trial(0), 600), "the first trial")
        before = set(storage.list(storage.folder / "study"))
        shutil.rmtree(cache / "dynamic-dropout" / "studies")
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 1, out + err
    assert len(err.splitlines()) == 1, err
    assert "was removed while the study ran: nothing that was written is lost; go on with --name study --resume" in err
    lacking = {path for path in before - set(storage.list(storage.folder / "study")) if "resume" not in path.parts}
    assert {path.parent.name for path in lacking} <= {"study.locks"}
    done = run([*command, "--resume"], tmp_path, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = MlflowClient(tracking).search_runs(["1"], "tags.role = 'trial'")
    assert sorted(int(run.data.tags["trial"]) for run in runs) == [0, 1, 2, 3, 4]
    assert {run.data.tags["outcome"] for run in runs} == {"completed"}
    for trial in runs:
        steps = [m.step for m in MlflowClient(tracking).get_metric_history(trial.info.run_id, "val_loss")]
        assert steps == list(range(0, 601, 10)), "a curve is unbroken, and has no step twice"
