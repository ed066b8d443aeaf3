"""`python -m tests.soak FOLDER`: a study of 60 trials, a worker killed every ten seconds, the driver three times.

Run by hand, for minutes; prints what it did and found. The folder must be new. It is looked at as in tests/faults.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
from mlflow import MlflowClient

from tests.clean_environment import environment
from tests.faults.checks import check_as_never_stopped, check_whole, optuna_study

TRIALS = 60
KILL_WORKER_SECONDS = 10.0
DRIVER_KILLS_AT = (5, 25, 45)
"""When the driver is killed: at so many ended trials."""
STUDY = ["-m", "study.search", "--name", "soak"]
NEW = ["--preset", "smoke", "--gpus", "0", "--trials", str(TRIALS), "--steps", "1000"]


def ended(folder: Path) -> int:
    """Returns how many trials have ended."""
    journal = folder / "optuna.journal"
    return sum(trial.state.is_finished() for trial in optuna_study(folder).trials) if journal.exists() else 0


def training_workers(driver: int) -> list[psutil.Process]:
    """Returns the worker processes in which trials train."""
    found = []
    for child in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if child.cmdline()[0].startswith("ray::ResourceTrainable."):  # Tune's name for what runs a trial
                found.append(child)
    return found


def main(place: Path) -> None:
    """Runs the study with its kills, then looks at what is left."""
    place.mkdir(parents=True)
    folder = place / "studies" / "soak"
    began, workers_killed, drivers_killed = time.monotonic(), 0, 0
    status = None
    while status is None:
        command = [sys.executable, *STUDY, *(["--resume"] if drivers_killed else NEW)]
        with (place / "output").open("ab") as output:
            driver = subprocess.Popen(
                command, cwd=place, env=environment(), stdout=output, stderr=output, start_new_session=True
            )
        last = time.monotonic()
        while driver.poll() is None:
            time.sleep(2)  # between two looks at another process, of which one reads the journal
            if drivers_killed < len(DRIVER_KILLS_AT) and ended(folder) >= DRIVER_KILLS_AT[drivers_killed]:
                os.kill(driver.pid, signal.SIGKILL)
                drivers_killed += 1
                break
            if time.monotonic() - last >= KILL_WORKER_SECONDS and (workers := training_workers(driver.pid)):
                random.choice(workers).kill()
                workers_killed, last = workers_killed + 1, time.monotonic()
        driver.wait()
        if driver.returncode != -signal.SIGKILL:
            status = driver.returncode
    print(f"{time.monotonic() - began:.0f} s, {workers_killed} workers and {drivers_killed} drivers killed")
    assert status == 0, (place / "output").read_text()
    client = MlflowClient(tracking_uri=f"sqlite:///{place / 'mlflow.db'}")
    outcomes = check_whole(folder, client, TRIALS)
    completed = [number for number, outcome in outcomes.items() if outcome == "completed"]
    for number in completed[:10]:
        check_as_never_stopped(folder, number)
    print(f"{TRIALS} trials in Optuna and in MLflow: {dict(Counter(outcomes.values()))}; every curve is unbroken, and")
    print(f"those of {min(10, len(completed))} trials are, bit for bit, those of training in one go")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
