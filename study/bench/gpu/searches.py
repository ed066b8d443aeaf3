"""Whole searches on one GPU with 1, 2 and 4 trials at once: trials an hour, and the memory that they take."""

import subprocess
import sys
import threading

from study.base.uris import sqlite_uri
from study.bench.gpu.report import Report
from study.bench.gpu.setting import Setting

TRIALS_PER_GPU = (1, 2, 4)
LOOK_SECONDS = 0.5


def searches(setting: Setting, report: Report, trials: int) -> None:
    """Runs a search of `trials` trials of `setting.steps` steps for each number of trials at once. It needs Ray."""
    from study.tracking.reader import study_times  # mlflow is missing on a bare training machine

    for k in TRIALS_PER_GPU if setting.is_cuda else (1,):
        with report.stage(f"search_{k}_at_once"):
            name = f"at-once-{k}"
            uri = sqlite_uri((setting.output / "mlflow.db").absolute())
            command = [
                sys.executable, "-m", "study.search", "--name", name, "--preset", setting.preset,
                "--trials", str(trials), "--steps", str(setting.steps),
                "--corpus", setting.corpus_path, "--scheduler", "none",
                "--gpus", str(int(setting.is_cuda)), "--trials-per-gpu", str(k),
                "--storage", str(setting.output / "studies"), "--tracking-uri", uri,
            ]  # fmt: skip
            memory = _Memory() if setting.is_cuda else None
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if memory is not None:
                report.add(f"gpu_memory_gb_{k}_at_once", memory.peak_gb())
            if done.returncode != 0:
                raise RuntimeError((done.stderr or done.stdout)[-500:])
            times = study_times(uri, name)
            hours = (max(end for _, _, end in times) - min(first for _, first, _ in times)) / 3600
            report.add(f"trials_per_hour_{k}_at_once", len(times) / hours, "from the first evaluation to the last end")


class _Memory:
    """The most memory of the first GPU that was in use since this was made."""

    def __init__(self) -> None:
        self._most, self._ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def peak_gb(self) -> float:
        """Ends the looking; returns the peak."""
        self._ended.set()
        self._thread.join()
        return self._most

    def _look(self) -> None:
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
        while not self._ended.wait(LOOK_SECONDS):
            mib = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
            self._most = max(self._most, float(mib or 0) * 2**20 / 1e9)
