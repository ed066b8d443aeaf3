"""The GPT, its initial weights and its loss, and sampling from it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.dropout import LEVELS, set_dropout_rate
from model.generate import generate
from model.gpt import GPT, IGNORED, Cache, GPTConfig

TINY = GPTConfig(vocab_size=13, block_size=8, n_layer=2, n_head=2, n_embd=16)
BABY = GPTConfig(vocab_size=65, block_size=256, n_layer=6, n_head=6, n_embd=384)


@pytest.fixture
def gpt() -> GPT:
    """A GPT in eval mode whose weights are ten times the initial ones, so that its attention is far from even."""
    torch.manual_seed(1)
    model = GPT(TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter *= 10
    return model


def tokens(B: int = 3, T: int = TINY.block_size) -> Tensor:
    return torch.randint(TINY.vocab_size, (B, T), generator=torch.Generator().manual_seed(2))


def logits_with_seed(gpt: GPT, x: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    logits: Tensor = gpt(x)[0]
    return logits


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("changed", [1, 4, 7])
def test_future_tokens_change_nothing(gpt: GPT, rate: float, changed: int) -> None:
    set_dropout_rate(gpt.train(), rate)
    x = tokens()
    other = x.clone()
    other[:, changed] = (other[:, changed] + 1) % TINY.vocab_size
    before, after = logits_with_seed(gpt, x, 3), logits_with_seed(gpt, other, 3)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert not torch.equal(before[:, changed], after[:, changed])
    if rate == 0:  # with dropout the way from there may be cut
        assert (before[:, changed:] != after[:, changed:]).any(-1).all()


@pytest.mark.parametrize(("B", "T"), [(1, 1), (3, 5), (2, 8)])
def test_shapes(gpt: GPT, B: int, T: int) -> None:
    logits, loss = gpt(tokens(B, T))
    assert logits.shape == (B, T, TINY.vocab_size)
    assert loss is None
    assert gpt(tokens(B, T), tokens(B, T))[1].shape == ()


def test_loss_is_the_mean_cross_entropy_of_the_targets_that_count(gpt: GPT) -> None:
    x, y = tokens(), tokens().flip(1)
    y[0, 5:] = IGNORED
    y[2, 0] = IGNORED
    logits, loss = gpt(x, y)
    terms = [-F.log_softmax(logits[b, t], dim=-1)[y[b, t]] for b in range(3) for t in range(8) if y[b, t] != IGNORED]
    assert len(terms) == 20
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_too_many_tokens_are_refused(gpt: GPT) -> None:
    with pytest.raises(ValueError, match=r"\b9\b.*\b8\b"):
        gpt(tokens(1, 9))


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match=r"n_embd.*n_head.*\b16\b.*\b3\b"):
        GPTConfig(vocab_size=13, block_size=8, n_layer=1, n_head=3, n_embd=16)


def test_head_is_tied_to_the_token_embedding(gpt: GPT) -> None:
    assert gpt.lm_head.weight is gpt.wte.weight
    x, unseen = torch.zeros(1, 4, dtype=torch.long), 5
    gpt(x, x)[1].backward()
    grad = gpt.wte.weight.grad
    assert grad is not None
    assert grad[unseen].abs().sum() > 0  # through the head: it is not in the input
    both_ways = grad.clone()
    gpt.zero_grad()
    gpt.wte.register_forward_hook(lambda module, inputs, output: output.detach())
    gpt(x, x)[1].backward()
    assert torch.equal(gpt.wte.weight.grad[unseen], both_ways[unseen])
    assert not torch.allclose(gpt.wte.weight.grad[0], both_ways[0])


@pytest.mark.parametrize("bias", [False, True])
def test_initial_weights(bias: bool) -> None:
    torch.manual_seed(4)
    config = GPTConfig(vocab_size=65, block_size=64, n_layer=8, n_head=2, n_embd=128, bias=bias)
    for name, parameter in GPT(config).named_parameters():
        if parameter.dim() == 1:
            assert torch.equal(parameter, torch.full_like(parameter, 0.0 if name.endswith("bias") else 1.0)), name
        else:
            std = 0.02 / math.sqrt(2 * 8) if name.endswith("c_proj.weight") else 0.02
            # The standard deviation of n normals is off by std / sqrt(2 n), their mean by std / sqrt(n).
            n = parameter.numel()
            assert parameter.std().item() == pytest.approx(std, abs=6 * std / math.sqrt(2 * n)), name
            assert parameter.mean().item() == pytest.approx(0, abs=6 * std / math.sqrt(n)), name


def test_baby_gpt_has_its_parameters() -> None:
    C = 384
    block = 2 * C + 3 * C * C + C * C + 4 * C * C + 4 * C * C  # two norms, c_attn and c_proj, c_fc and c_proj
    n = sum(parameter.numel() for parameter in GPT(BABY).parameters())
    assert n == 65 * C + 256 * C + 6 * block + C
    assert n - 256 * C == 10_646_784  # nanoGPT's "10.65M", which leaves the positions out


def test_biases_are_everywhere_or_nowhere() -> None:
    C = TINY.n_embd
    count = {
        bias: sum(p.numel() for p in GPT(GPTConfig(**(vars(TINY) | {"bias": bias}))).parameters())
        for bias in (False, True)
    }
    assert count[True] - count[False] == TINY.n_layer * (2 * C + 3 * C + C + 4 * C + C) + C


def test_attention_with_dropout_agrees_with_sdpa(gpt: GPT) -> None:
    x, y = tokens(), tokens().flip(1)
    expected, expected_loss = gpt(x, y)
    expected_loss.backward()
    gradients = [p.grad.clone() for p in gpt.parameters()]
    gpt.zero_grad()
    set_dropout_rate(gpt.train(), 1 / LEVELS)
    assert gpt.blocks[0].attn.probability_dropout.active
    torch.manual_seed(5)  # a seed with which nothing is dropped, so that only the scale of 1 + 2^-16 is left
    logits, loss = gpt(x, y)
    loss.backward()
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-4, atol=0)
    for parameter, gradient in zip(gpt.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-2, atol=1e-3 * gradient.abs().max().item())


def test_positions_matter(gpt: GPT) -> None:
    logits = gpt(torch.zeros(1, 8, dtype=torch.long))[0][0]
    assert len({tuple(row.tolist()) for row in logits}) == 8


def test_greedy_sampling_takes_the_likeliest(gpt: GPT) -> None:
    start = tokens(2, 3)
    sampled = generate(gpt, start, 4, temperature=0)
    assert sampled.shape == (2, 7)
    assert torch.equal(sampled[:, :3], start)
    assert torch.equal(sampled[:, 3:], gpt(sampled[:, :-1])[0][:, 2:].argmax(-1))
    torch.manual_seed(6)
    assert torch.equal(generate(gpt, start, 4, temperature=0), sampled)


def test_sampling_follows_its_generator(gpt: GPT) -> None:
    def sample(seed: int) -> list[int]:
        return generate(gpt, tokens(1, 3), 20, generator=torch.Generator().manual_seed(seed))[0].tolist()

    before = torch.get_rng_state()
    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_sampling_follows_the_probabilities(gpt: GPT) -> None:
    n = 20_000
    start = tokens(1, 3).expand(n, -1)
    sampled = generate(gpt, start, 1, temperature=2.0, generator=torch.Generator().manual_seed(7))[:, -1]
    shares = torch.bincount(sampled, minlength=TINY.vocab_size) / n
    expected = (gpt(start[:1])[0][0, -1] / 2).softmax(-1)
    assert ((shares - expected).abs() < 6 * (expected * (1 - expected) / n).sqrt()).all()


def test_sampling_begins_a_new_context_with_the_half_of_a_full_one(gpt: GPT) -> None:
    long = tokens(2, 12)
    sampled = generate(gpt, long, 7, temperature=0)
    assert torch.equal(sampled[:, :12], long)
    first_seen = [4, 9, 9, 9, 9, 9, 14]  # 12 tokens: the last 8 of them; then 4 of them, until they are 8 again
    likeliest = [gpt(sampled[:, a:b])[0][:, -1].argmax(-1) for a, b in zip(first_seen, range(12, 19), strict=True)]
    assert torch.equal(sampled[:, 12:], torch.stack(likeliest, dim=1))


@pytest.mark.parametrize("length", [1, 3, 8, 12])
def test_sampling_with_a_cache_is_the_same(gpt: GPT, length: int) -> None:
    start = tokens(2, length)
    plain, cached = (
        generate(gpt, start, 30, generator=torch.Generator().manual_seed(8), cached=c) for c in (False, True)
    )
    assert torch.equal(plain, cached)


def test_logits_with_a_cache_are_those_without(gpt: GPT) -> None:
    x = tokens()
    cache = Cache(gpt, batch_size=3)
    with torch.no_grad():
        parts = [gpt(part, cache=cache)[0] for part in (x[:, :3], *x[:, 3:].split(1, dim=1))]
    torch.testing.assert_close(torch.cat(parts, dim=1), gpt(x)[0])
    with pytest.raises(ValueError, match="9 tokens do not fit"):
        gpt(x[:, :1], cache=cache)
