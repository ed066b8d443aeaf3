"""A study on a Ray cluster of three nodes, with S3, PostgreSQL and an MLflow server behind a login."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from ray.cluster_utils import Cluster

from study.records.storage import Storage
from tests.conftest import Study, run, start
from tests.dying_task import write_dying_task
from tests.services import KEYS, S3, mlflow_with_login, postgres, s3_server, wait_until

pytestmark = pytest.mark.slow

SMOKE = ["--preset", "smoke", "--gpus", "0"]
STEPS, TRIALS = 2500, 24
"""So many that trials outlive the start of a worker: else those of a lost node find room on the other one first."""


@dataclass(frozen=True)
class Services:
    """Where a study of these tests is kept and shown, and the environment that its driver and its nodes have."""

    s3: S3
    tracking_uri: str
    cache: Path

    @property
    def env(self) -> dict[str, str]:
        return KEYS | {"MLFLOW_TRACKING_URI": self.tracking_uri, "XDG_CACHE_HOME": str(self.cache)}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("services")
    with s3_server(folder) as s3, postgres(folder) as database, mlflow_with_login(folder, s3, database) as uri:
        yield Services(s3, uri, folder / "cache")


class Shown(Study):
    """A study on a server."""

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.output)


class Nodes:
    """A head that runs no trials, and two nodes that do, each with a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "env_vars": dict(KEYS)})
        self.trials_on = [self.add(), self.add()]

    def add(self) -> Any:
        cache = self._folder / f"cache-{len(list(self._folder.iterdir()))}"
        cache.mkdir(parents=True)
        return self.cluster.add_node(num_cpus=2, env_vars=KEYS | {"XDG_CACHE_HOME": str(cache)})

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def caches(self) -> list[list[str]]:
        """The names of the corpora in each node's cache."""
        return [[path.name for path in cache.rglob("*.arrow")] for cache in sorted(self._folder.iterdir())]

    def running(self, node: Any) -> int:
        """How many actors of trials a node runs."""
        return sum(a["State"] == "ALIVE" and a["Address"]["NodeID"] == node.node_id for a in self._actors())

    def drivers(self) -> set[str]:
        """The nodes to which drivers are connected: on one host, Ray takes any of its nodes for the driver's own."""
        return {actor["OwnerAddress"]["NodeID"] for actor in self._actors()}

    def _actors(self) -> list[dict[str, Any]]:
        return list(self.cluster.global_state.actor_table(None).values())


@pytest.fixture
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path_factory.mktemp("nodes"))
    yield nodes
    nodes.cluster.shutdown()


@pytest.mark.timeout(1800)
def test_a_study_loses_a_node_and_gains_another(
    services: Services, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    uri = services.s3.uri("judged")
    arguments = ["-m", "study.search", *SMOKE, "--name", "judged", "--trials", str(TRIALS), "--steps", str(STEPS)]
    driver = start([*arguments, "--address", nodes.address, "--storage", uri], here, **services.env)
    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    storage = Storage(uri, tmp_path / "copy")
    study = Shown(here, "judged", services.tracking_uri)

    def four_could_go_on() -> bool:
        assert driver.poll() is None, driver.communicate()
        kept = {path.parts[-4] for path in storage.list(storage.folder / "judged") if path.name == "manifest.json"}
        if len(kept) < 4 or study.client.get_experiment_by_name("judged") is None:
            return False
        running = {f"{number:05d}" for number, trial in study.trials().items() if trial.info.status == "RUNNING"}
        return len(running) == 4 and running <= kept

    try:
        wait_until(four_could_go_on, "four trials that run, and a checkpoint of each in the bucket")
        lost = next(node for node in nodes.trials_on if node.node_id not in nodes.drivers())
        assert nodes.running(lost) == 2
        nodes.cluster.remove_node(lost, allow_graceful=False)
        joined = nodes.add()
        wait_until(lambda: nodes.running(joined), "a trial on the node that has come")
    except AssertionError:
        driver.terminate()
        print(*driver.communicate(timeout=60), sep="\n")
        raise
    said, err = driver.communicate(timeout=1200)
    assert driver.returncode == 0, said + err
    assert "failed" not in said, said
    assert "Traceback" not in said + err
    assert "secret-of-a-test" not in said + err

    (parent,) = study.runs("study")
    assert parent.info.status == "FINISHED"
    trials = study.trials()
    assert sorted(trials) == list(range(TRIALS))
    assert len(study.runs("trial")) == TRIALS
    for trial in trials.values():
        steps = [step for step, _ in study.history(trial, "val_loss")]
        assert steps == list(range(0, steps[-1] + 1, 10)), "a curve is unbroken, and has no step twice"
        assert (steps[-1] == STEPS) == (trial.data.tags["outcome"] == "completed")
        names = {Path(f.path).name for f in study.client.list_artifacts(trial.info.run_id, "checkpoint")}
        assert {"model.safetensors", "config.yaml"} <= names
    assert re.search(r"GET \S+/resume/step-\d+/state\.pt HTTP/1\.1\S* 20", services.s3.log.read_text()), "none resumed"
    assert all(len(names) == 1 for names in nodes.caches()), "each node has the corpus once"

    left = {path.relative_to(storage.folder / "judged").parts[0] for path in storage.list(storage.folder / "judged")}
    assert left == {
        "study.yaml",
        "study.copy.yaml",
        "optuna.journal",
        "best_schedule.yaml",
        "report.html",
        "figures",
        "trials.parquet",
        "trials",
    }
    assert not [path for path in storage.list(storage.folder / "judged") if "resume" in path.parts]

    done = run(["-m", "study.export", "--study", "judged"], elsewhere, MLFLOW_TRACKING_URI=services.tracking_uri)
    assert done.returncode == 0, done.stderr
    exported = yaml.safe_load((elsewhere / "best_schedule.yaml").read_text())
    completed = [trial for trial in trials.values() if trial.data.tags["outcome"] == "completed"]
    assert exported["provenance"]["best_val_loss"] == min(trial.data.metrics["best_val_loss"] for trial in completed)

    # And a fifth place goes on with it, given nothing but where things are.
    resume = ["-m", "study.search", "--name", "judged", "--resume", "--storage", uri, "--gpus", "0"]
    done = run(
        [*resume, "--trials", str(TRIALS + 1)],
        elsewhere,
        **services.env | {"XDG_CACHE_HOME": str(tmp_path / "fifth")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(study.trials()) == list(range(TRIALS + 1))


def test_a_task_is_sent_to_the_nodes_and_kept_in_the_store(services: Services, nodes: Nodes, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    uri = services.s3.uri("tasks")
    new = ["--task", write_dying_task(here), "--steps", "60", "--eval-interval", "20", "--gpus", "0"]
    new += ["--set", "dies_at=33", "--set", f"markers={tmp_path}"]  # a run's folder is fetched anew from the store
    study = ["-m", "study.search", "--name", "own", "--address", nodes.address, "--storage", uri]
    done = run([*study, *new, "--trials", "3", "--scheduler", "none"], here, **services.env)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run([*study, "--resume", "--trials", "4"], elsewhere, **services.env)  # where the task's file is not
    assert done.returncode == 0, done.stdout + done.stderr
    trials = Shown(here, "own", services.tracking_uri).trials()
    assert {number: trial.data.tags["outcome"] for number, trial in trials.items()} == dict.fromkeys(
        range(4), "completed"
    )
    assert all(trial.data.metrics["error"] > 0 for trial in trials.values())
    assert len(list(tmp_path.glob("*-died"))) == 4


REFUSED = {
    "local storage": (["--storage", "studies"], {}, "is a local folder (node "),
    "local tracking": (
        [],
        {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"},
        "is a file, and the Ray cluster has 3 nodes: give",
    ),
    "no password": ([], {"MLFLOW_TRACKING_URI": "server"}, "MLFLOW_TRACKING_PASSWORD"),
    "no bucket": (["--storage", "nowhere"], {}, "NO_SUCH_BUCKET"),
    "no such study": (["--resume"], {}, "there is no study refused in s3://"),
    "too many GPUs": (["--gpus", "1"], {}, "--gpus 1: the Ray cluster has 0"),
}


def test_what_does_not_work_on_every_node_is_refused(services: Services, nodes: Nodes, tmp_path: Path) -> None:
    server = re.sub("//.*@", "//", services.tracking_uri)
    for case, (more, settings, named) in REFUSED.items():
        (folder := tmp_path / case).mkdir()
        uris = {"server": server, "nowhere": services.s3.uri("x").replace("studies", "nowhere")}
        arguments = [*SMOKE, "--name", "refused", "--address", nodes.address, "--storage", services.s3.uri("refused")]
        arguments += [uris.get(word, word) for word in more]
        env = services.env | {key: uris.get(value, value) for key, value in settings.items()}
        done = run(["-m", "study.search", *arguments], folder, **env)
        assert done.returncode == 2, (case, done.stdout, done.stderr)
        assert named in done.stderr, (case, done.stderr)
        assert len(done.stderr.splitlines()) == 1, (case, done.stderr)
        assert list(folder.iterdir()) == [], case
