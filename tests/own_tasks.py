"""The user's own tasks that tests train, written as a user would."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from model.regularizer import Regularizer
from study.base.errors import UserError
from study.tasks.own_trainer import TaskTrainer
from study.tasks.task_files import TaskFiles, read_task_files
from study.training.progress import Progress
from study.training.task_config import Setting, TaskConfig

FALLING = {"kind": "linear", "initial_rate": 0.4, "final_rate": 0.0}
STEERED = {"kind": "val_loss", "initial_rate": 0.4, "final_rate": 0.1, "factor": 0.5, "patience": 1, "min_delta": 0.0}
LOOP = """\
import random

import numpy as np
import torch


def train(run):
    x = torch.randn(96, 4)
    y = x.sum(1, keepdim=True)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Dropout(0.2), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.config.get("lr", 0.02))
    numbers = np.random.default_rng(run.seed)
    run.drive(model)
    run.keep(model=model, optimizer=optimizer, numbers=numbers)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))  # writes the rate when made
    run.keep(scheduler=scheduler)
    torch.randn(3), np.random.rand(), random.random()

    def evaluate(step):
        if run.is_due(step):
            with torch.no_grad():
                val_loss = (model.eval()(x[64:]) - y[64:]).square().mean()
            model.train()
            run.report(val_loss=val_loss, noise=random.random(), rate=run.dropout_rate)

    for step in run.steps():
        noise = np.random.rand() + numbers.random()
        if run.config.order == "evaluate first":
            evaluate(step)
        rows = torch.randint(64, (8,), generator=run.generator)
        loss = (model(x[rows]) - y[rows] + noise * 0.1).square().mean() + 0.01 * random.random()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if run.config.order == "update first":
            evaluate(step)
        scheduler.step()
"""
"""A loop that draws from every generator, in either order."""
SHORT = """\
import torch


def train(run):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.2))
    {before}
    for step in run.steps():
        {step}
    {after}
"""
"""A loop without training, into which a test puts a mistake."""
GOOD = {
    "before": "run.drive(model); run.keep(model=model)",
    "step": "run.is_due(step) and run.report(val_loss=1.0)",
    "after": "",
}


def write_task(folder: Path, text: str = LOOP, name: str = "my_task.py") -> TaskFiles:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return read_task_files(f"{folder / name}:train")


def short_task(folder: Path, **lines: str) -> TaskFiles:
    return write_task(folder, SHORT.format_map(GOOD | lines))


def task_trainer(
    files: TaskFiles,
    regularizer: Mapping[str, Any] | Regularizer = FALLING,
    *,
    steps: int = 12,
    eval_interval: int = 4,
    folder: Path | None = None,
    **settings: Setting,
) -> TaskTrainer:
    config = TaskConfig(
        task=files.name, task_sha256=files.sha256, steps=steps, eval_interval=eval_interval, settings=settings
    )
    return TaskTrainer(config, regularizer, files, folder=folder)


def numbers(evaluations: list[Progress]) -> list[dict[str, Any]]:
    """Evaluations without their times."""
    return [progress.to_dict() | {"train_seconds": 0, "time_ms": 0} for progress in evaluations]


def error_of(trainer: TaskTrainer, kind: type[Exception] = UserError) -> str:
    """Returns the one line that a run ends with."""
    with pytest.raises(kind) as raised:
        list(trainer.run())
    message = str(raised.value)
    assert "\n" not in message
    return message
