"""A small training loop as one finds it: a character GPT, its rate of dropout fixed."""

import math

import torch
from torch import nn
from torch.nn import functional as F

batch_size, block_size, n_layer, n_head, n_embd, dropout = 8, 16, 2, 2, 32, 0.2
learning_rate, min_lr, max_iters, eval_interval, eval_iters = 3e-3, 3e-4, 40, 10, 4
device = "cpu"
text = "to be, or not to be, that is the question: whether 'tis nobler in the mind to suffer " * 40
chars = sorted(set(text))
tokens = torch.tensor([chars.index(c) for c in text])
data = {"train": tokens[:3000], "val": tokens[3000:]}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.c_attn, self.c_proj = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        self.mlp = nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd))
        self.dropout, self.resid_dropout = dropout, nn.Dropout(dropout)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).view(B, T, 3, n_head, C // n_head).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout * self.training, is_causal=True)
        x = x + self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(B, T, C)))
        return x + self.resid_dropout(self.mlp(self.ln_2(x)))


def get_batch(split):
    source = data[split]
    starts = torch.randint(len(source) - block_size, (batch_size,))
    rows = torch.stack([source[i : i + block_size + 1] for i in starts]).to(device)
    return rows[:, :-1], rows[:, 1:]


def get_lr(step):
    return min_lr + (learning_rate - min_lr) * (1 + math.cos(math.pi * step / max_iters)) / 2


def loss_of(model, batch):
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


@torch.no_grad()
def estimate_loss(model):
    model.eval()
    losses = {s: sum(loss_of(model, get_batch(s)).item() for _ in range(eval_iters)) / eval_iters for s in data}
    model.train()
    return losses


def main():
    torch.manual_seed(1337)
    blocks = [Block() for _ in range(n_layer)]
    model = nn.Sequential(nn.Embedding(len(chars), n_embd), *blocks, nn.Linear(n_embd, len(chars))).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    for step in range(max_iters):
        for group in optimizer.param_groups:
            group["lr"] = get_lr(step)
        if step % eval_interval == 0 or step == max_iters - 1:
            losses = estimate_loss(model)
            print(f"step {step}: train loss {losses['train']:.4f}, val loss {losses['val']:.4f}")
        loss = loss_of(model, get_batch("train"))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
