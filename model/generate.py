"""Sampling from a GPT."""

import torch
from torch import Tensor

from model.gpt import GPT


@torch.no_grad()
def generate(
    gpt: GPT, tokens: Tensor, n: int, *, temperature: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Returns `tokens` (B, T) with `n` sampled ones after them, (B, T + n); each sees at most block_size before it.

    The model is to be in eval mode. Temperature 0 takes the likeliest token.
    """
    for _ in range(n):
        logits, _ = gpt(tokens[:, -gpt.config.block_size :])
        logits = logits[:, -1].float()  # (B, vocab_size)
        if temperature == 0:
            chosen = logits.argmax(-1, keepdim=True)
        else:
            chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        tokens = torch.cat((tokens, chosen), dim=1)
    return tokens
