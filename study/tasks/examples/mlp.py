"""A plain torch MLP that learns noisy labels of made data, where dropout helps.

python -m study.search --task study/tasks/examples/mlp.py:train --steps 300 --trials 6 --set width=64
"""

import torch
from torch import nn
from torch.nn import functional as F

from study.tasks.own_run import Run

TRAIN = 400


def make_data() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns points, and the classes that a random network gives them, a tenth of which is wrong."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 16, generator=generator)
    hidden = torch.tanh(x @ torch.randn(16, 8, generator=generator))
    y = (hidden @ torch.randn(8, 4, generator=generator)).argmax(dim=1)
    wrong = torch.rand(len(y), generator=generator) < 0.1
    return x, torch.where(wrong, torch.randint(4, y.shape, generator=generator), y)


def train(run: Run) -> None:
    """Trains the MLP."""
    x, y = (tensor.to(run.device) for tensor in make_data())
    width = run.config.get("width", 128)
    model = nn.Sequential(
        nn.Linear(16, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(width, 4),
    ).to(run.device)  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.config.get("lr", 3e-3))
    run.drive(model)
    run.keep(model=model, optimizer=optimizer)
    for step in run.steps():
        rows = torch.randint(TRAIN, (64,), generator=run.generator).to(run.device)
        loss = F.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if run.is_due(step):
            model.eval()
            with torch.no_grad():
                logits = model(x[TRAIN:])
            model.train()
            accuracy = (logits.argmax(dim=1) == y[TRAIN:]).float().mean()
            run.report(val_loss=F.cross_entropy(logits, y[TRAIN:]), train_loss=loss, accuracy=accuracy)
