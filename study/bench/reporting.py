"""A trial without training and torch, which reports evaluations and writes files like a real trial."""

import json
import time
from pathlib import Path
from typing import Any

from ray import tune

from study.tracking.run_points import write_time
from study.training.evaluation_rows import METRICS_FILE

REPORTS = 20
WEIGHTS_BYTES = 1_600_000
"""The size of the weights of the preset `laptop`."""


def report(config: dict[str, Any], trials: str, interval: float) -> None:
    """Reports 20 evaluations, `interval` seconds apart; the losses depend on the trial's number."""
    folder = Path(trials, f"{config['number']:05d}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(bytes(WEIGHTS_BYTES))
    (folder / "config.yaml").write_text("kind: none\n")
    labels = {"study": None, "trial": config["number"], "kind": "", "schedule": "{}", "outcome": None, "seed": 1}
    for i in range(REPORTS):
        time.sleep(interval)
        loss = 3.0 - 0.05 * i + (config["number"] * 37 % 100) / 1000
        evaluation = {
            "step": 10 * i, "progress": i / (REPORTS - 1), "dropout_rate": 0.1, "train_loss": loss,
            "val_loss": loss, "best_val_loss": loss, "learning_rate": 1e-3,
            "tokens_per_second": 1e5, "train_seconds": float(i),
        }  # fmt: skip
        with (folder / METRICS_FILE).open("a") as file:
            file.write(json.dumps(labels | evaluation) + "\n")
        time_ms = int(time.time() * 1000)
        write_time(folder, 10 * i, time_ms)
        where = {"node": "node", "gpu_ids": "0", "pid": 1}
        tune.report(evaluation | where | {"best_step": 10 * i, "time_ms": time_ms})
