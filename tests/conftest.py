"""What several tests share: the commands as a user types them, and one real study that many look at."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from study.records.storage import Storage
from study.tracking.client import connect
from tests.clean_environment import environment
from tests.services import KEYS, S3, s3_server

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is first imported: its kernels run on the CPU, in Python

LONGEST = (
    "test_driver",
    "test_outages",
    "test_confirm",
    "test_confirm_looks",
    "test_working_folders",
    "test_cluster",
    "test_storage_studies",
    "test_stopping",
    "test_bench_gpu",
    "test_interrupts",
    "test_report",
    "test_families_study",
    "test_hosts",
    "test_gpus",
    "test_disk",
    "test_secrets",
    "test_old_study",
    "test_journal",
    "test_lost_output",
    "test_workers",
    "test_bench",
    "test_server",
)
"""The files that take longest, in this order."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets long files begin first: where files run side by side, a long one at the end would run alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    rank = {f"{name}.py": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (rank.get(item.path.name, len(rank)), item.path not in slow))


def start(arguments: Sequence[str], folder: Path, **settings: str) -> subprocess.Popen[str]:
    """Starts `python ARGUMENTS` in a folder, in a process group of its own; `settings` are for its environment."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment() | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(
    arguments: Sequence[str], folder: Path, timeout: float = 600, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` in a folder; whatever it started is gone afterwards."""
    process = start(arguments, folder, **settings)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@dataclass(frozen=True)
class Study:
    """A study that was run, and a client of the store that it wrote."""

    folder: Path
    name: str
    output: str

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=f"sqlite:///{self.folder / 'mlflow.db'}")

    def runs(self, role: str) -> list[Run]:
        experiment = self.client.get_experiment_by_name(self.name)
        assert experiment is not None
        return list(self.client.search_runs([experiment.experiment_id], f"tags.role = '{role}'", max_results=1000))

    def trials(self) -> dict[int, Run]:
        return {int(run.data.tags["trial"]): run for run in self.runs("trial")}

    def history(self, run: Run, metric: str) -> list[tuple[int, float]]:
        return [(m.step, m.value) for m in self.client.get_metric_history(run.info.run_id, metric)]


def search(folder: Path, name: str, *more: str, program: Sequence[str] = ("-m", "study.search")) -> Study:
    """Runs a study of the smoke preset to its end."""
    done = run([*program, "--preset", "smoke", "--name", name, *more], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return Study(folder, name, done.stdout)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For small models: beside other tests, two threads that wait for each other take longer than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def _empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{store}").search_experiments()
    return store


@pytest.fixture
def store_uri(_empty_store: Path, tmp_path: Path) -> str:
    """The URI of a test's own MLflow store, a copy of an empty one: MLflow takes two seconds to make its tables."""
    return f"sqlite:///{shutil.copy(_empty_store, tmp_path / 'mlflow.db')}"


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A real study of ten trials, some of which ASHA stops. All processes of pytest read this one; none changes it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, output = shared / "finished", shared / "finished.txt"
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not output.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed to make it
            folder.mkdir()
            output.write_text(search(folder, "finished", "--trials", "10", "--gpus", "0").output)
    return Study(folder, "finished", output.read_text())


@pytest.fixture(scope="session")
def study_store(finished_study: Study) -> tuple[Path, str]:
    """The folder and the name of the real study."""
    return finished_study.folder, finished_study.name


def wait_for_a_trial(process: "subprocess.Popen[str]") -> str:
    """Reads what a study prints until a trial has completed."""
    assert process.stdout is not None
    output = ""
    while "completed" not in output:
        line = process.stdout.readline()
        assert line, f"the study ended: {output}"
        output += line
    return output


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real S3 server."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def storage(server: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A place on that server, and its copy here."""
    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    return Storage(server.uri(tmp_path.name), tmp_path / "here")


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty cache of the files of tasks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    """Checks that a test leaves no thread of a task behind."""
    before = threading.active_count()
    yield
    assert threading.active_count() == before
