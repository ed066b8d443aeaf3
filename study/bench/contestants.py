"""The compared training steps: our GPT, the same GPT written plainly, Hugging Face's GPT-2, matrix products alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.dropout import set_dropout_rate
from model.families import Family, Standard
from model.gpt import GPT, IGNORED, GPTConfig

Step = Callable[[], object]
Forward = Callable[[Tensor, Tensor], Tensor]


class PlainBlock(nn.Module):
    """One block with nn.Dropout and SDPA's own dropout_p."""

    def __init__(self, config: GPTConfig, rate: float) -> None:
        super().__init__()
        self.n_head, self.rate = config.n_head, rate
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.attn_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.attn_dropout = nn.Dropout(rate)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.mlp_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.mlp_dropout = nn.Dropout(rate)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).split(C, dim=2)
        q, k, v = (part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.rate if self.training else 0.0)
        x = x + self.attn_dropout(self.attn_proj(y.transpose(1, 2).reshape(B, T, C)))
        x = x + self.mlp_dropout(self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)))))
        return x


class PlainGPT(nn.Module):
    """Our GPT, written with plain PyTorch layers."""

    def __init__(self, config: GPTConfig, rate: float) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.dropout = nn.Dropout(rate)
        self.blocks = nn.ModuleList(PlainBlock(config, rate) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight

    def load(self, gpt: GPT) -> "PlainGPT":
        """Copies the weights of our GPT."""
        names = {"attn.c_attn": "c_attn", "attn.c_proj": "attn_proj", "mlp.c_fc": "c_fc", "mlp.c_proj": "mlp_proj"}
        state = gpt.state_dict()
        for ours, plain in names.items():
            state = {key.replace(f".{ours}.", f".{plain}."): value for key, value in state.items()}
        self.load_state_dict(state)
        return self

    def set_rate(self, rate: float) -> None:
        """Sets the rate of every nn.Dropout, and SDPA's float."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = rate
            if isinstance(module, PlainBlock):
                module.rate = rate

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.dropout(self.wte(tokens) + self.wpe.weight[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


@dataclass(frozen=True)
class Shape:
    """The model and batch size of a training step."""

    model: GPTConfig
    batch_size: int

    def batch(self, device: str) -> tuple[Tensor, Tensor]:
        """Returns random tokens and targets."""
        size = (2, self.batch_size, self.model.block_size)
        x, y = torch.randint(self.model.vocab_size, size, generator=torch.Generator().manual_seed(1)).to(device)
        return x, y


STANDARD = Standard()


def our_step(
    shape: Shape,
    rate: float,
    device: str = "cpu",
    bfloat16: bool = False,
    compiled: bool = False,
    family: Family = STANDARD,
) -> Step:
    """Returns a training step of our GPT."""
    model = GPT(shape.model, family).to(device)
    set_dropout_rate(model, rate)
    return training_step(model, shape, device, bfloat16=bfloat16, compiled=compiled)


def plain_step(shape: Shape, rate: float, device: str = "cpu", bfloat16: bool = False, compiled: bool = False) -> Step:
    """Returns a training step of the plain GPT."""
    model = PlainGPT(shape.model, rate).load(GPT(shape.model)).to(device)
    return training_step(model, shape, device, bfloat16=bfloat16, compiled=compiled)


def gpt2_step(shape: Shape, rate: float, device: str = "cpu") -> Step:
    """Returns a training step of Hugging Face's GPT-2. Raises ModuleNotFoundError without transformers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    c = shape.model
    config = GPT2Config(
        vocab_size=c.vocab_size, n_positions=c.block_size, n_embd=c.n_embd, n_layer=c.n_layer, n_head=c.n_head,
        resid_pdrop=rate, embd_pdrop=rate, attn_pdrop=rate, use_cache=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model: nn.Module = GPT2LMHeadModel(config)
    model.to(device)
    return training_step(model, shape, device, lambda x, y: model(input_ids=x, labels=y).loss)


def training_step(
    model: nn.Module,
    shape: Shape,
    device: str,
    forward: Forward | None = None,
    bfloat16: bool = False,
    compiled: bool = False,
) -> Step:
    """Returns a training step; every model gets the same optimizer and clipping."""
    model.train()
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    x, y = shape.batch(device)

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bfloat16):
            out = run(x, y) if forward is None else forward(x, y)
        loss = out[1] if isinstance(out, tuple) else out
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def products(shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Step, float]:
    """Returns a call of one step's matrix products alone, forward and backward, and their number of operations."""
    c, n = shape.model, shape.batch_size * shape.model.block_size
    linear = [(c.n_embd, 3 * c.n_embd), (c.n_embd, c.n_embd), (c.n_embd, 4 * c.n_embd), (4 * c.n_embd, c.n_embd)]
    calls: list[tuple[Tensor, Tensor]] = []
    for rows, columns in linear * c.n_layer + [(c.n_embd, c.vocab_size)]:
        x, w, g = (torch.randn(s, device=device, dtype=dtype) for s in ((n, rows), (columns, rows), (n, columns)))
        calls += [(x, w.t()), (g, w), (g.t(), x)]  # the output; the gradients of input and weight
    heads, hs, T = shape.batch_size * c.n_head, c.n_embd // c.n_head, c.block_size
    for _ in range(c.n_layer):
        q, k, v, dy = (torch.randn(heads, T, hs, device=device, dtype=dtype) for _ in range(4))
        p = torch.randn(heads, T, T, device=device, dtype=dtype)
        calls += [(q, k.mT), (p, v), (dy, v.mT), (p.mT, dy), (p, k), (p.mT, q)]

    def step() -> None:
        for a, b in calls:
            torch.matmul(a, b)

    return step, sum(2.0 * a.numel() * b.shape[-1] for a, b in calls)
