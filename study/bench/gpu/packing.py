"""Several trials at once on one GPU: what they reach together, in turns and with NVIDIA's MPS."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from study.bench.gpu.report import Report
from study.bench.gpu.setting import Setting

AT_ONCE = (1, 2, 4)
START_SECONDS = 90.0
MEASURED_SECONDS = 2.5
STEPS = 25


def packing(setting: Setting, report: Report, arguments: list[str]) -> None:
    """Reports the steps a second of 1, 2 and 4 processes together; `arguments` are this command's."""
    for mps in (False, True) if setting.is_cuda else (False,):
        with report.stage(f"packing_mps_{mps}"), tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with multi_process_service(folder) if mps else _nothing() as environment:
                at_once = AT_ONCE if setting.is_cuda else AT_ONCE[:1]
                _measure(report, "with_mps_" if mps else "", folder, arguments, environment, at_once)


@contextmanager
def multi_process_service(folder: Path) -> Iterator[Mapping[str, str]]:
    """Runs NVIDIA's MPS; gives the environment of its clients."""
    mine = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    subprocess.run(["nvidia-cuda-mps-control", "-d"], env=os.environ | mine, check=True)
    try:
        yield mine
    finally:
        subprocess.run(["nvidia-cuda-mps-control"], input=b"quit\n", env=os.environ | mine, check=False)


@contextmanager
def _nothing() -> Iterator[Mapping[str, str]]:
    yield {}


def _measure(
    report: Report,
    label: str,
    folder: Path,
    arguments: list[str],
    environment: Mapping[str, str],
    at_once: tuple[int, ...],
) -> None:
    most = max(at_once)
    command = [sys.executable, "-m", "study.bench.gpu", "worker", *arguments, "--folder", str(folder), "--index"]
    processes = [
        subprocess.Popen(
            [*command, str(i)],
            env=os.environ | environment | {"TORCHINDUCTOR_COMPILE_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=(folder / f"error-{i}").open("w"),
        )
        for i in range(most)
    ]
    try:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and len(list(folder.glob("ready-*"))) < most:
            if any(process.poll() is not None for process in processes):
                raise RuntimeError("".join((folder / f"error-{i}").read_text()[-300:] for i in range(most)))
            time.sleep(0.1)
        for k in at_once:
            (folder / "running").write_text(str(k))
            time.sleep(1)  # until those that begin have begun
            begin = time.time()
            time.sleep(MEASURED_SECONDS)
            end = time.time()
            report.add(f"{label}steps_per_second_{k}_at_once", _steps(folder, begin, end) / (end - begin))
    finally:
        (folder / "running").write_text("end")
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


def _steps(folder: Path, begin: float, end: float) -> int:
    times = [float(line) for path in folder.glob("steps-*") for line in path.read_text().split()]
    return STEPS * sum(begin < at <= end for at in times)


def worker(setting: Setting, folder: Path, index: int) -> None:
    """Trains while its index is below the number in `folder`/running, and writes down when it has made some steps."""
    trainer = setting.trainer(0.2)
    setting.train(trainer, STEPS)
    (folder / f"ready-{index}").touch()
    running = folder / "running"
    while (text := running.read_text() if running.exists() else "") != "end":
        if index < int(text or 0):
            setting.train(trainer, STEPS)
            with (folder / f"steps-{index}").open("a") as file:
                file.write(f"{time.time()}\n")
        else:
            time.sleep(0.01)
