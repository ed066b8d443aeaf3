"""A GPT of the nanoGPT kind, with dropout at its four sites under one rate.

Shapes: B batch, T tokens (at most block_size), C channels (n_embd), nh heads, hs channels a head.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.dropout import Dropout, DropoutRate

IGNORED = -1
"""A target of this value does not count in the loss."""


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape of a GPT: `n_head` must divide `n_embd`; `bias` is for linear layers and layer norms alike."""

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    bias: bool = False

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd must be a multiple of n_head, got {self.n_embd} and {self.n_head}")


class Attention(nn.Module):
    """Causal self-attention, with dropout on the attention probabilities and on the output."""

    def __init__(self, config: GPTConfig, rate: DropoutRate) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.probability_dropout = Dropout(rate)
        self.output_dropout = Dropout(rate)
        future = torch.full((config.block_size, config.block_size), float("-inf")).triu(1)
        self.register_buffer("future", future, persistent=False)  # (T, T), -inf where a key is in the future, else 0
        self.future: Tensor

    def forward(self, x: Tensor, past: "LayerCache | None" = None) -> Tensor:
        B, T, C = x.shape
        nh, hs = self.n_head, C // self.n_head
        qkv = self.c_attn(x).view(B, T, 3, nh, hs).permute(2, 0, 3, 1, 4)  # (3, B, nh, T, hs)
        if past is not None:
            q, k, v = qkv
            k, v = past.append(k, v)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
        elif self.probability_dropout.active:
            # SDPA's own dropout_p is a float, which recompiles at every new rate, and is slow on a CPU.
            q, k, v = qkv.reshape(3, B * nh, T, hs)
            scores = torch.baddbmm(self.future[:T, :T], q, k.transpose(1, 2), alpha=hs**-0.5)  # (B * nh, T, T)
            y = (self.probability_dropout(F.softmax(scores, dim=-1)) @ v).view(B, nh, T, hs)
        else:
            q, k, v = qkv
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y.transpose(1, 2).reshape(B, T, C)
        out: Tensor = self.output_dropout(self.c_proj(y))
        return out


class MLP(nn.Module):
    """Two linear layers with a GELU between them, and dropout on the output."""

    def __init__(self, config: GPTConfig, rate: DropoutRate) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.output_dropout = Dropout(rate)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output_dropout(self.c_proj(F.gelu(self.c_fc(x))))
        return out


class Block(nn.Module):
    """One pre-norm residual block: attention, then the MLP."""

    def __init__(self, config: GPTConfig, rate: DropoutRate) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = Attention(config, rate)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config, rate)

    def forward(self, x: Tensor, past: "LayerCache | None" = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), past)
        x = x + self.mlp(self.ln_2(x))
        return x


class LayerCache:
    """The keys and values of the tokens that one attention layer has seen, for sampling without reading them again."""

    def __init__(self) -> None:
        self.k: Tensor | None = None  # (B, nh, T, hs), and so is v
        self.v: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Takes the keys and values of new tokens: several at first, then one at a time. Returns all there are."""
        if self.k is not None and self.v is not None:
            k, v = torch.cat((self.k, k), dim=2), torch.cat((self.v, v), dim=2)
        self.k, self.v = k, v
        return k, v


class GPT(nn.Module):
    """The model: token and position embeddings, pre-norm blocks, and a head tied to the token embedding.

    Its dropout rate starts at 0; `model.dropout.set_dropout_rate` sets it.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        rate = DropoutRate()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.embedding_dropout = Dropout(rate)
        self.blocks = nn.ModuleList(Block(config, rate) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):  # the residual stream sums 2 n_layer of these (GPT-2)
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer))

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, past: list[LayerCache] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the logits (B, T, vocab_size) and, given targets, the mean cross-entropy in nats per token.

        Args:
            tokens: (B, T) int64, T at most block_size.
            targets: (B, T) int64; IGNORED ones do not count.
            past: in eval mode, a cache a block: `tokens` are the first ones, or the one after those in the cache.
        """
        seen = past[0].k.shape[2] if past is not None and past[0].k is not None else 0
        T = tokens.shape[1]
        if seen + T > self.config.block_size:
            raise ValueError(f"{seen + T} tokens do not fit into a context of {self.config.block_size}")
        x = self.embedding_dropout(self.wte(tokens) + self.wpe.weight[seen : seen + T])
        for i, block in enumerate(self.blocks):
            x = block(x, past[i] if past is not None else None)
        logits = self.lm_head(self.ln_f(x))
        if targets is None:
            return logits, None
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)
        return logits, loss
