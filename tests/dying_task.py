"""A user's own task for tests: a small network with dropout, whose process dies once at a step if it is told to."""

from pathlib import Path

TASK = """
import os
import signal
from pathlib import Path

import torch
from torch import nn

from helper import targets


def train(run):
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1)).to(run.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.config.get("lr", 1e-2))
    run.drive(model)
    run.keep(model=model, optimizer=optimizer)
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(7)).to(run.device)
    marker = Path(str(run.config.get("markers", run.folder)), f"{run.folder.name}-died")
    for step in run.steps():
        batch = x[torch.randint(64, (16,), generator=run.generator)]
        loss = (model(batch) - targets(batch)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == run.config.get("dies_at", -1) and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if run.is_due(step):
            model.eval()
            with torch.no_grad():
                error = (model(x) - targets(x)).abs().mean()
                val_loss = (model(x) - targets(x)).square().mean()
            model.train()
            run.report(val_loss=val_loss, train_loss=loss, error=error)
"""
HELPER = """
def targets(x):
    return x.sum(1, keepdim=True).sin()
"""


def write_dying_task(folder: Path) -> str:
    """Writes the task and a module beside it into a folder of its own; returns what `--task` takes."""
    (folder / "mine").mkdir()
    (folder / "mine" / "own.py").write_text(TASK)
    (folder / "mine" / "helper.py").write_text(HELPER)
    return "mine/own.py:train"
