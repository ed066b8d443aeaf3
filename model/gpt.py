"""A GPT of the nanoGPT kind, with the dropout of a family at its sites.

Shapes: B batch, T tokens (at most block_size), C channels (n_embd), nh heads, hs channels a head.
"""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.dropout import DropoutRate
from model.families import Family, Standard
from model.sites import FamilySite, make_site

log = logging.getLogger(__name__)
IGNORED = -1
"""A target of this value does not count in the loss."""
FusedAttention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`model.fused_attention.attend`."""
STANDARD = Standard()


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape of a GPT: `n_head` must divide `n_embd`, or `head_size` must be given.

    Attributes:
        bias: for linear layers and layer norms alike.
        head_size: channels a head; None is n_embd / n_head.
        n_hidden: units of the MLP's hidden layer; None is 4 n_embd.
    """

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    bias: bool = False
    head_size: int | None = None
    n_hidden: int | None = None

    def __post_init__(self) -> None:
        if self.head_size is None and self.n_embd % self.n_head:
            raise ValueError(f"n_embd must be a multiple of n_head, got {self.n_embd} and {self.n_head}")
        if self.n_embd % self.channels_per_head:  # families see the residual stream as groups of that many channels
            raise ValueError(f"n_embd must be a multiple of head_size, got {self.n_embd} and {self.head_size}")

    @property
    def channels_per_head(self) -> int:
        """The channels of a head, hs."""
        return self.n_embd // self.n_head if self.head_size is None else self.head_size

    @property
    def hidden_units(self) -> int:
        """The units of the MLP's hidden layer."""
        return 4 * self.n_embd if self.n_hidden is None else self.n_hidden


def _groups(config: GPTConfig) -> int:
    """Returns into how many groups of a head's channels the residual stream falls."""
    return config.n_embd // config.channels_per_head


class Attention(nn.Module):
    """Causal self-attention, with dropout on the attention probabilities and on the output."""

    def __init__(self, config: GPTConfig, family: Family, rate: DropoutRate, layer: int) -> None:
        super().__init__()
        self.n_head, self.head_size, self.layer, self.rate = config.n_head, config.channels_per_head, layer, rate
        channels = self.n_head * self.head_size
        self.c_attn = nn.Linear(config.n_embd, 3 * channels, bias=config.bias)
        self.c_proj = nn.Linear(channels, config.n_embd, bias=config.bias)
        self.probability_dropout = make_site(family, "attention", rate)
        self.output_dropout = make_site(family, "attention_output", rate, _groups(config))
        self.fused: FusedAttention | None = None
        """Attention and dropout on the probabilities as one operator: see `fuse_attention`."""
        future = torch.full((config.block_size, config.block_size), float("-inf")).triu(1)
        self.register_buffer("future", future, persistent=False)  # (T, T), -inf where a key is in the future, else 0
        self.future: Tensor

    def forward(self, x: Tensor, cache: "Cache | None" = None) -> Tensor:
        B, T, _ = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, self.head_size)
        if cache is None and self.probability_dropout.active:
            y = self._attend_with_dropout(qkv)
        else:
            qkv = qkv.permute(2, 0, 3, 1, 4)  # (3, B, nh, T, hs)
            q, (k, v) = qkv[0], qkv[1:] if cache is None else cache.extend(self.layer, qkv[1:])
            y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1).transpose(1, 2)
        y = y.reshape(B, T, self.n_head * self.head_size)
        out: Tensor = self.output_dropout(self.c_proj(y))
        return out

    def _attend_with_dropout(self, qkv: Tensor) -> Tensor:
        """Returns (B, T, nh, hs) for `qkv` (B, T, 3, nh, hs).

        SDPA's own dropout_p is a float, which recompiles at every new rate, and is slow on a CPU.
        """
        B, T, _, nh, hs = qkv.shape
        if self.fused is not None:
            return self.fused(qkv, self.rate.threshold, self.rate.scale)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).reshape(3, B * nh, T, hs)
        scores = torch.baddbmm(self.future[:T, :T], q, k.transpose(1, 2), alpha=hs**-0.5)  # (B * nh, T, T)
        y: Tensor = self.probability_dropout(F.softmax(scores, dim=-1)) @ v
        return y.view(B, nh, T, hs).transpose(1, 2)


class MLP(nn.Module):
    """Two linear layers with a GELU between them, and dropout before and after the GELU and on the output."""

    def __init__(self, config: GPTConfig, family: Family, rate: DropoutRate) -> None:
        super().__init__()
        hidden = config.hidden_units
        self.c_fc = nn.Linear(config.n_embd, hidden, bias=config.bias)
        self.c_proj = nn.Linear(hidden, config.n_embd, bias=config.bias)
        self.before_gelu = make_site(family, "before_gelu", rate, config.n_head)
        self.hidden_dropout = make_site(family, "mlp_hidden", rate, config.n_head, (hidden, config.n_embd))
        self.output_dropout = make_site(family, "mlp_output", rate, _groups(config))

    def forward(self, x: Tensor) -> Tensor:
        z = self.before_gelu(self.c_fc(x))  # (B, T, 4C)
        out: Tensor = self.output_dropout(self.c_proj(self.hidden_dropout(F.gelu(z), z, x)))
        return out


class Block(nn.Module):
    """One pre-norm residual block: attention, then the MLP."""

    def __init__(self, config: GPTConfig, family: Family, rate: DropoutRate, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = Attention(config, family, rate, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config, family, rate)
        self.path = make_site(family, "block", rate)

    def forward(self, x: Tensor, cache: "Cache | None" = None) -> Tensor:
        attended: Tensor = self.attn(self.ln_1(x), cache)
        y = x + attended
        added: Tensor = self.mlp(self.ln_2(y))
        return x + self.path(attended + added) if self.path.active else y + added


class Cache:
    """The keys and values of the tokens that a GPT has seen, for sampling without reading them again."""

    def __init__(self, gpt: "GPT", batch_size: int) -> None:
        c, weight = gpt.config, gpt.wte.weight
        shape = (2, batch_size, c.n_head, c.block_size, c.channels_per_head)
        self.layers = [torch.empty(shape, dtype=weight.dtype, device=weight.device) for _ in range(c.n_layer)]
        self.length = 0

    def extend(self, layer: int, kv: Tensor) -> Tensor:
        """Takes the keys and values (2, B, nh, T, hs) of new tokens; returns those of all, the new ones last."""
        end = self.length + kv.shape[3]
        self.layers[layer][:, :, :, self.length : end] = kv  # (2, B, nh, T, hs)
        seen: Tensor = self.layers[layer][:, :, :, :end]
        return seen


class GPT(nn.Module):
    """The model: token and position embeddings, pre-norm blocks, and a head tied to the token embedding.

    Its dropout rates start at 0; `model.dropout.set_dropout_rate` sets all of them, `set_dropout_rates` one a block.
    The initial weights depend on torch's seed and the config only, not on the family.

    Raises:
        ValueError: if the family does not fit the config.
    """

    def __init__(self, config: GPTConfig, family: Family = STANDARD) -> None:
        super().__init__()
        family.check_heads(config.n_embd // config.n_head)
        self.config, self.family = config, family
        self.rates = nn.ModuleList(DropoutRate(family.derived) for _ in range(config.n_layer))
        rates = [rate for rate in self.rates if isinstance(rate, DropoutRate)]
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.embedding_dropout = make_site(family, "embedding", rates[0])
        self.blocks = nn.ModuleList(Block(config, family, rate, layer) for layer, rate in enumerate(rates))
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
        for module in self.modules():
            if isinstance(module, MLP) and isinstance(module.hidden_dropout, FamilySite):
                module.hidden_dropout.start_from(module.c_fc.weight)

    def used_blocks(self) -> Iterable[nn.Module]:
        """Returns the blocks that `forward` runs, the first one first."""
        return self.blocks

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, cache: "Cache | None" = None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the logits (B, T, vocab_size) and, given targets, the mean cross-entropy in nats per token.

        Args:
            tokens: (B, T) int64, T at most block_size.
            targets: (B, T) int64; IGNORED ones do not count.
            cache: in eval mode: `tokens` are the first ones, or the one after those in the cache.
        """
        logits = self.lm_head(self.hidden(tokens, cache))
        if targets is None:
            return logits, None
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)
        return logits, loss

    def hidden(self, tokens: Tensor, cache: "Cache | None" = None) -> Tensor:
        """Returns the hidden states (B, T, C) that the head reads, after the last layer norm; see `forward`."""
        seen = cache.length if cache is not None else 0
        T = tokens.shape[1]
        if seen + T > self.config.block_size:
            raise ValueError(f"{seen + T} tokens do not fit into a context of {self.config.block_size}")
        x = self.embedding_dropout(self.wte(tokens) + self.wpe.weight[seen : seen + T])
        for block in self.used_blocks():
            x = block(x, cache)
        if cache is not None:
            cache.length += T
        hidden: Tensor = self.ln_f(x)
        return hidden


def fuse_attention(model: GPT) -> bool:
    """Lets a GPT on a CUDA device use the kernels of `model.fused_attention` where it drops probabilities.

    Returns whether they work here. They need Triton, which torch brings along for CUDA, and a C compiler.
    """
    size = model.config.channels_per_head
    device = model.wte.weight.device
    if device.type != "cuda" or not 16 <= size <= 128:
        return False
    try:
        from model.fused_attention import attend

        with torch.random.fork_rng(devices=[device]):
            qkv = torch.zeros(1, 16, 3, 1, size, dtype=torch.bfloat16, device=device)
            attend(qkv, torch.ones((), dtype=torch.int32, device=device), torch.ones((), device=device))
    except Exception as error:  # Triton raises what its own parts raise; the model works without it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        log.warning("attention runs as single operations, which is slower: its kernel does not work here (%s)", reason)
        return False
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused = attend
    return True
