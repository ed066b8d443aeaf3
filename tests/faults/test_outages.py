"""A real MLflow server that is killed, paused or gone for good under a study; the whole machine restarted."""

import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from study.tracking.writer import StudyWriter
from tests.clean_environment import environment
from tests.conftest import run, start, wait_for_a_trial
from tests.faults.checks import check_whole
from tests.faults.servers import Server, loses_answers
from tests.run_folders import COMPLETED, trial

pytestmark = [pytest.mark.slow, pytest.mark.faults]

TRIALS = 6
STUDY = ["-m", "study.search", "--name", "study"]
NEW = ["--preset", "smoke", "--gpus", "0", "--steps", "600", "--trials", str(TRIALS), "--scheduler", "none"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server").start()
    try:
        yield server
    finally:
        server.kill()


def listening(pid: int) -> set[str]:
    """Returns the addresses on which a process and all that it started listen."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    sockets = [c for p in processes for c in p.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN]
    return {socket.laddr.ip.removeprefix("::ffff:") for socket in sockets}


def test_server_down_for_a_while(server: Server, tmp_path: Path) -> None:
    process = start(["-u", *STUDY, *NEW, "--tracking-uri", server.uri], tmp_path)
    try:
        output = wait_for_a_trial(process)
        server.kill()
        down = time.time()
        # Meanwhile: no one else gets in.
        assert listening(process.pid) == {"127.0.0.1"}
        assert stat.S_IMODE((Path.home() / ".ray" / "auth_token").stat().st_mode) == 0o600
        for more in (["--resume"], NEW):
            second = run([*STUDY, *more], tmp_path)
            assert second.returncode == 2, second.stdout + second.stderr
            assert len(second.stderr.splitlines()) == 1
        second = run([*STUDY, "--resume"], tmp_path)
        assert f"study study is being run by process {process.pid} on {os.uname().nodename} since 20" in second.stderr
        time.sleep(max(0.0, down + 15 - time.time()))  # the fault itself: so long the server is away
        up = time.time()
        server.start()
        out, err = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output + out + err
    assert "MLflow does not answer; what it should have is kept on disk" in output + out
    client = MlflowClient(tracking_uri=server.uri)
    assert set(check_whole(tmp_path / "studies" / "study", client, TRIALS).values()) == {"completed"}
    experiment = client.get_experiment_by_name("study")
    points = [
        point.timestamp / 1000
        for trial in client.search_runs([experiment.experiment_id], "tags.role = 'trial'")
        for point in client.get_metric_history(trial.info.run_id, "val_loss")
    ]
    assert any(down + 1 < time_s < up for time_s in points), "training went on meanwhile"


def test_server_paused_makes_no_run_twice(server: Server, tmp_path: Path) -> None:
    process = start(["-u", *STUDY, *NEW, "--tracking-uri", server.uri], tmp_path)
    try:
        output = wait_for_a_trial(process)
        server.send(signal.SIGSTOP)
        time.sleep(24)  # the fault itself: longer than a request and its repetition wait
        server.send(signal.SIGCONT)
        out, err = process.communicate(timeout=300)
    finally:
        server.send(signal.SIGCONT)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output + out + err
    if "what it lacks is kept" in out:
        assert run([*STUDY, "--resume"], tmp_path).returncode == 0
    check_whole(tmp_path / "studies" / "study", MlflowClient(tracking_uri=server.uri), TRIALS)


def test_runs_whose_making_was_never_answered_are_one(server: Server, tmp_path: Path) -> None:
    made = MlflowClient(tracking_uri=server.uri)
    with loses_answers(server, "/mlflow/runs/create", times=3) as uri:
        writer = StudyWriter(uri, "name", tmp_path)
        writer.start_study({}, {}, "")
        writer.describe(trial(**COMPLETED))
        writer.end_study("FINISHED")
        assert writer.close(120)
    kept = made.search_runs(["1"])
    assert len(made.search_runs(["1"], run_view_type=ViewType.ALL)) > len(kept) == 2
    assert {run.info.status for run in kept} == {"FINISHED"}


def own_processes() -> list[str]:
    """Returns what starts a command whose processes all die with it, as those of a machine do."""
    for more in ([], ["--user", "--map-root-user"]):
        command = ["unshare", *more, "--pid", "--fork", "--kill-child", "--mount-proc"]
        if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return command
    pytest.skip("this machine lets no one have processes of their own")


def test_machine_restarts_and_the_server_stays_away(tmp_path: Path) -> None:
    server = Server(tmp_path / "server")
    study = [sys.executable, "-u", *STUDY, *NEW, "--tracking-uri", server.uri]
    script = f"(cd {server.folder} && {shlex.join(server.command)} >log 2>&1) & " + (
        f"until curl -sf {server.uri}/health >/dev/null; do sleep 0.2; done; {shlex.join(study)}; wait"
    )
    machine = subprocess.Popen(
        [*own_processes(), "bash", "-c", script],
        cwd=tmp_path,
        env=environment() | server.settings,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for_a_trial(machine)
    finally:
        machine.kill()
        machine.wait()
    assert not server.answers()
    done = run([*STUDY, "--resume"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no MLflow server answers" in done.stdout
    assert "what it lacks is kept, and sent by --resume" in done.stdout
    server.start()
    try:
        done = run([*STUDY, "--resume"], tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        client = MlflowClient(tracking_uri=server.uri)
        outcomes = check_whole(tmp_path / "studies" / "study", client, TRIALS)
        assert set(outcomes.values()) == {"completed"}
        done = run([*STUDY, "--resume"], tmp_path)
        assert "nothing to do" in done.stdout
    finally:
        server.kill()
