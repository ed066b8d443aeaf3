"""Short runs of study.train, as someone may have made them elsewhere."""

from pathlib import Path

from model.schedules import from_dict
from study import train
from study.training.schedule_file import ScheduleFile

SCHEDULES = {
    "constant-0.2": {"kind": "constant", "rate": 0.2},
    "constant-0.4": {"kind": "constant", "rate": 0.4},
    "none": {"kind": "constant", "rate": 0.0},
    "linear": {"kind": "linear", "initial_rate": 0.2, "final_rate": 0.0},
    "rising": {"kind": "linear", "initial_rate": 0.0, "final_rate": 0.33},
}
SEEDS = (1, 2)


def train_run(folder: Path, schedule: str, seed: int, *more: str) -> Path:
    file, output = folder / f"{schedule}.yaml", folder / f"{schedule}-{seed}"
    ScheduleFile(schedule=from_dict(SCHEDULES[schedule])).write(file)
    arguments = ["--schedule", str(file), "--preset", "smoke", "--steps", "30", "--seed", str(seed)]
    assert train.main([*arguments, "--output", str(output), *more]) == 0
    return output
