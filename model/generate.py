"""Sampling from a GPT, with a key/value cache."""

import torch
from torch import Tensor

from model.gpt import GPT, Cache


def generate(
    gpt: GPT,
    tokens: Tensor,
    n: int,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    cached: bool = True,
) -> Tensor:
    """Returns `tokens` (B, T) followed by `n` sampled tokens, (B, T + n). Requires a model in eval mode.

    Positions are learned, so keys cannot move: when the context is full, its second half starts a new context. A token
    thus sees between block_size / 2 and block_size earlier tokens, if there are as many, with and without a cache.

    Args:
        temperature: 0 takes the likeliest token.
        generator: a generator on the tokens' device; None for torch's default generator.
        cached: whether keys and values are cached; if not, each token reads its whole context again.
    """
    with torch.inference_mode():
        block_size = gpt.config.block_size
        start = max(0, tokens.shape[1] - block_size)  # of the context
        cache: Cache | None = None
        for _ in range(n):
            if tokens.shape[1] - start > block_size:
                start, cache = tokens.shape[1] - max(1, block_size // 2), None
            if cache is not None:
                logits, _ = gpt(tokens[:, -1:], cache=cache)
            else:
                cache = Cache(gpt, len(tokens)) if cached else None
                logits, _ = gpt(tokens[:, start:], cache=cache)
            logits = logits[:, -1].float()  # (B, vocab_size)
            if temperature == 0:
                chosen = logits.argmax(-1, keepdim=True)
            else:
                chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
            tokens = torch.cat((tokens, chosen), dim=1)
    return tokens.clone()  # an ordinary tensor
