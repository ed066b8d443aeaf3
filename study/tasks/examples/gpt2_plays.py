"""Hugging Face's GPT-2, small and with random weights, on the characters of Shakespeare's plays.

pip install transformers
python -m study.search --task study/tasks/examples/gpt2_plays.py:train --steps 150 --trials 6
"""

import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from study.corpus import load_text
from study.tasks.own_run import Run

CONTEXT, BATCH = 32, 16


def mean_loss(model: GPT2LMHeadModel, batch: torch.Tensor) -> torch.Tensor:
    """Returns the mean cross-entropy of the next characters in a batch (B, T + 1)."""
    return F.cross_entropy(model(batch[:, :-1]).logits.transpose(1, 2), batch[:, 1:])


def train(run: Run) -> None:
    """Trains GPT-2 on a tenth of the plays, and evaluates it on the text that follows."""
    text = load_text("shakespeare")[:120_000]
    ids = {character: i for i, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([ids[character] for character in text], device=run.device)
    training, validation = tokens[:100_000], tokens[100_000:106_600].view(200, CONTEXT + 1)
    config = GPT2Config(
        vocab_size=len(ids), n_positions=CONTEXT, n_layer=run.config.get("n_layer", 2), n_head=2,
        n_embd=run.config.get("n_embd", 64), bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).to(run.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.config.get("lr", 3e-3))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.total_steps)
    run.drive(model)
    run.keep(model=model, optimizer=optimizer, scheduler=scheduler)
    offsets = torch.arange(CONTEXT + 1, device=run.device)
    for step in run.steps():
        starts = torch.randint(len(training) - CONTEXT, (BATCH, 1), generator=run.generator).to(run.device)
        loss = mean_loss(model, training[starts + offsets])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if run.is_due(step):
            model.eval()
            with torch.no_grad():
                val_loss = mean_loss(model, validation)
            model.train()
            run.report(val_loss=val_loss, train_loss=loss)
        scheduler.step()
