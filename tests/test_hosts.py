"""The five lines of study/engine/README.md, on three hosts that share nothing but a network; one of them is lost."""

import sys
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from study.records.storage import Storage
from tests.conftest import run
from tests.hosts import HERE, Host, hosts
from tests.services import KEYS, mlflow_server, s3_server, wait_until

pytestmark = pytest.mark.slow

RAY = [str(Path(sys.executable).with_name("ray"))]
SMALL = ["--num-cpus", "1", "--object-store-memory", "80000000", "--disable-usage-stats"]
SEARCH = [sys.executable, "-m", "study.search", "--preset", "smoke", "--gpus", "0", "--address", "auto"]
LONG = ["--steps", "2500", "--trials", "4", "--scheduler", "none"]


def test_a_study_goes_on_when_a_host_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    with hosts("first", "second", "third", with_code="first") as (first, second, third):
        store = f"sqlite:///{tmp_path / 'runs.db'}"
        with s3_server(tmp_path, host=HERE) as s3, mlflow_server(tmp_path, store, "kept", KEYS, host=HERE) as uri:
            token = first.run([*RAY, "get-auth-token", "--generate"]).strip()
            first.run([*RAY, "start", "--head", "--port", "6379", *SMALL], **KEYS)
            for host in (second, third):
                host.run(["bash", "-c", f"mkdir ~/.ray && echo {token} > ~/.ray/auth_token"])
                join = [*RAY, "start", "--address", f"{first.address}:6379", *SMALL]
                host.run(join, **KEYS, RAY_AUTH_MODE="token")
            where = {"MLFLOW_TRACKING_URI": uri, **KEYS}
            driver = first.start([*SEARCH, *LONG, "--name", "hosts", "--storage", s3.uri("hosts")], **where)
            storage, client = Storage(s3.uri("hosts"), tmp_path / "copy"), MlflowClient(uri)

            def trials_on(host: Host) -> set[str]:
                """Those that run on a host and have a checkpoint in the bucket."""
                assert driver.poll() is None, driver.communicate()
                kept = {
                    path.parts[-4] for path in storage.list(storage.folder / "hosts") if path.name == "manifest.json"
                }
                runs = client.search_runs(["1"], f"tags.node = '{host.name}'") if kept else []
                return {f"{int(run.data.tags['trial']):05d}" for run in runs if run.info.status == "RUNNING"} & kept

            wait_until(lambda: trials_on(second), "a trial on the second host, and a checkpoint of it in the bucket")
            second.lose()
            out, err = driver.communicate(timeout=400)
            assert driver.returncode == 0, out + err
            assert "failed" not in out, out
            trials = client.search_runs(["1"], "tags.role = 'trial'")
            assert sorted(int(trial.data.tags["trial"]) for trial in trials) == list(range(4))
            assert {trial.data.tags["node"] for trial in trials} <= {"first", "second", "third"}
            for trial in trials:
                steps = [metric.step for metric in client.get_metric_history(trial.info.run_id, "val_loss")]
                assert steps == list(range(0, steps[-1] + 1, 10)), "a curve is unbroken, and has no step twice"
            done = run(["-m", "study.export", "--study", "hosts", "--tracking-uri", uri], elsewhere)
            assert done.returncode == 0, done.stderr
            completed = [trial for trial in trials if trial.data.tags["outcome"] == "completed"]
            exported = yaml.safe_load((elsewhere / "best_schedule.yaml").read_text())["provenance"]
            assert exported["best_val_loss"] == min(trial.data.metrics["best_val_loss"] for trial in completed)
