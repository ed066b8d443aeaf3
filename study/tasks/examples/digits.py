"""A small convolutional network on scikit-learn's digits, 8 x 8 pixels each.

python -m study.search --task study/tasks/examples/digits.py:train --steps 300 --trials 6
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from study.tasks.own_run import Run

TRAIN = 1300


class Net(nn.Module):
    """Two convolutions and a hidden layer, with dropout after each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.hidden = nn.Linear(2 * channels * 4, 64)
        self.head = nn.Linear(64, 10)
        self.channel_dropout = nn.Dropout2d(0.1)
        self.dropout = nn.Dropout(0.1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the logits (B, 10) of images (B, 1, 8, 8)."""
        x = self.channel_dropout(F.max_pool2d(F.relu(self.first(images)), 2))
        x = self.channel_dropout(F.max_pool2d(F.relu(self.second(x)), 2))
        logits: torch.Tensor = self.head(self.dropout(F.relu(self.hidden(x.flatten(1)))))
        return logits


def train(run: Run) -> None:
    """Trains the network."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32, device=run.device).unsqueeze(1) / 16
    classes = torch.tensor(digits.target, device=run.device)
    model = Net(run.config.get("channels", 16)).to(run.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.config.get("lr", 2e-3))
    run.drive(model)
    run.keep(model=model, optimizer=optimizer)
    for step in run.steps():
        rows = torch.randint(TRAIN, (64,), generator=run.generator).to(run.device)
        loss = F.cross_entropy(model(images[rows]), classes[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if run.is_due(step):
            model.eval()
            with torch.no_grad():
                val_loss = F.cross_entropy(model(images[TRAIN:]), classes[TRAIN:])
            model.train()
            run.report(val_loss=val_loss, train_loss=loss)
