"""A supernet's model: sizes are prefixes of its weights, the largest is the plain GPT, and each can be taken out."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import families
from model.dropout import rate_owners, set_dropout_rate
from model.elastic import ElasticGPT, subnet_config
from model.generate import generate
from model.gpt import GPT, GPTConfig
from model.size import KINDS, ByWidth, Size

CONFIG = GPTConfig(vocab_size=17, block_size=12, n_layer=3, n_head=4, n_embd=32)
WHOLE = Size.parse("1,3")
SMALLER = [Size.parse(text) for text in ("0.5,3", "3/4,2", "0.25,1")]
FAMILIES: list[dict[str, Any]] = [
    {"kind": "standard"},
    {"kind": "standard", "sites": ["mlp_hidden"]},
    {"kind": "standout", "alpha": 0.5, "learned": True},
    {"kind": "dropblock", "block": 2},
    {"kind": "mix", "drop": 0.5},
    {"kind": "path"},
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def models(family: dict[str, Any] = FAMILIES[0], bias: bool = False) -> tuple[GPT, ElasticGPT]:
    """Returns a plain and an elastic GPT with the same initial weights, and torch's generator in one state for both."""
    config = GPTConfig(**vars(CONFIG) | {"bias": bias})
    made: list[Any] = []
    for kind in (GPT, ElasticGPT):
        torch.manual_seed(5)
        made.append(kind(config, families.from_dict(family)))
    return made[0], made[1]


def batch(seed: int = 1, T: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(17, (5, T + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def trained(model: GPT, rate: float) -> tuple[list[Tensor], list[Tensor | None]]:
    """Makes three updates; returns the losses, and the gradients of the last one."""
    torch.manual_seed(9)
    set_dropout_rate(model, rate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for seed in range(3):
        optimizer.zero_grad()
        loss = model(*batch(seed))[1]
        assert loss is not None
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_the_largest_size_is_the_plain_gpt(family: dict[str, Any], bias: bool) -> None:
    plain, elastic = models(family, bias)
    assert list(plain.state_dict()) == list(elastic.state_dict())
    for rate in (0.0, 0.3):
        elastic.resize(SMALLER[0])
        elastic.resize(WHOLE)
        for expected, found in zip(trained(plain, rate), trained(elastic, rate), strict=True):
            for a, b in zip(expected, found, strict=True):
                assert (a is None and b is None) or torch.equal(a, b)
        for a, b in zip(plain.parameters(), elastic.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("size", [WHOLE, *SMALLER], ids=str)
def test_an_extracted_size_has_the_same_logits(size: Size, family: dict[str, Any], bias: bool) -> None:
    _, elastic = models(family, bias)
    trained(elastic, 0.2)
    state = torch.get_rng_state()
    gpt = elastic.extract(size)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(gpt) is GPT
    assert gpt.config == subnet_config(CONFIG if not bias else elastic.config, size)
    assert elastic.size == WHOLE
    assert not gpt.training
    elastic.resize(size)
    elastic.eval()
    x, y = batch(7)
    for found, expected in zip(gpt(x, y), elastic(x, y), strict=True):
        assert torch.equal(found, expected)
    elastic.train()
    gpt.train()  # its dropout has the same rates and masks too
    torch.manual_seed(3)
    expected = elastic(x)[0]
    torch.manual_seed(3)
    assert torch.equal(gpt(x)[0], expected)
    gpt.wte.weight.data.zero_()  # its weights are copies
    torch.manual_seed(3)
    assert torch.equal(elastic(x)[0], expected)


def reference(gpt: GPT, tokens: Tensor, heads: int, hidden: int, depth: int) -> Tensor:
    """Returns the logits of a sub-network: the plain GPT with all weights beyond the prefixes at 0, head by head."""
    C, hs = gpt.config.n_embd, gpt.config.n_embd // gpt.config.n_head
    x = gpt.wte(tokens) + gpt.wpe.weight[: tokens.shape[1]]
    T = tokens.shape[1]
    future = torch.ones(T, T).triu(1).bool()
    for block in list(gpt.blocks)[:depth]:
        attn: Any = block.attn
        mlp: Any = block.mlp
        h = F.layer_norm(x, (C,), block.ln_1.weight)  # type: ignore[union-attr,arg-type]
        added = torch.zeros_like(x)
        for head in range(heads):
            rows = slice(head * hs, (head + 1) * hs)
            q, k, v = (h @ attn.c_attn.weight[part * C :][rows].T for part in range(3))
            scores = (q @ k.transpose(1, 2) / hs**0.5).masked_fill(future, float("-inf"))
            added = added + scores.softmax(-1) @ v @ attn.c_proj.weight[:, rows].T
        x = x + added
        h = F.layer_norm(x, (C,), block.ln_2.weight)  # type: ignore[union-attr,arg-type]
        x = x + F.gelu(h @ mlp.c_fc.weight[:hidden].T) @ mlp.c_proj.weight[:, :hidden].T
    return F.layer_norm(x, (C,), gpt.ln_f.weight) @ gpt.wte.weight.T


@pytest.mark.parametrize(("size", "heads", "hidden", "depth"), [("0.5,3", 2, 64, 3), ("3/4,2", 3, 96, 2)])
def test_a_size_is_a_prefix_of_heads_hidden_units_and_blocks(size: str, heads: int, hidden: int, depth: int) -> None:
    plain, elastic = models()
    elastic.resize(Size.parse(size))
    x, y = batch()
    logits, loss = elastic(x, y)
    expected = reference(plain, x, heads, hidden, depth)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-6)
    loss.backward()
    F.cross_entropy(expected.flatten(0, 1), y.flatten()).backward()
    for (name, a), b in zip(plain.named_parameters(), elastic.parameters(), strict=True):
        if a.grad is None:
            assert b.grad is None, name  # a block that was not used
        else:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-7, msg=name)
    gradient = elastic.get_parameter("blocks.0.attn.c_attn.weight").grad
    assert gradient is not None
    used = gradient.abs().sum(1).view(3, 32) > 0  # query, key and value, each with all heads
    assert used[:, : 8 * heads].all()
    assert not used[:, 8 * heads :].any()


def test_an_extracted_size_samples_with_a_cache_as_without() -> None:
    _, elastic = models()
    trained(elastic, 0.0)
    gpt = elastic.extract(Size.parse("3/4,2"))
    start = torch.zeros((2, 1), dtype=torch.int64)
    cached, plain = (generate(gpt, start, 30, temperature=0, cached=cached) for cached in (True, False))
    assert torch.equal(cached, plain)


def test_sizes_and_rates_compile_one_graph_a_size() -> None:
    _, elastic = models()
    graphs = 0

    def counter(graph: Any, inputs: Any) -> Callable[..., Any]:
        nonlocal graphs
        graphs += 1
        return graph  # type: ignore[no-any-return]

    compiled: Any = torch.compile(elastic, backend=counter, fullgraph=True, dynamic=False)
    x, _ = batch()
    for rate in (0.1, 0.3, 0.02, 0.7):
        for size in (WHOLE, SMALLER[0], SMALLER[2]):
            elastic.resize(size)
            set_dropout_rate(elastic, rate * float(size.width))
            assert not torch.equal(compiled(x)[0], compiled(x)[0])
    assert graphs == 3


def test_the_rate_follows_the_rule() -> None:
    half = Size.parse("0.5,3")
    rules = [rule() for rule in KINDS.values()]
    assert [rule.rate(0.3, WHOLE, is_largest=True) for rule in rules] == [0.3, 0.3, 0.3]
    assert [rule.rate(0.3, half, is_largest=False) for rule in rules] == [0.15, 0.3, 0.0]
    assert ByWidth().rate(0.3, Size.parse("1,2"), is_largest=False) == 0.3  # depth does not count
    _, elastic = models()
    set_dropout_rate(elastic, 0.0)
    elastic.resize(half)
    x, _ = batch()
    state = torch.get_rng_state()
    elastic(x)
    assert torch.equal(torch.get_rng_state(), state)  # rate 0 draws nothing
    assert not any(owner.active for owner in rate_owners(elastic))


@pytest.mark.parametrize("text", ["0.5,2", "1,3", "1/3,1", "0.125,12", "2/3,6"])
def test_a_size_is_read_as_it_is_written(text: str) -> None:
    assert str(Size.parse(text)) == text
    assert Size.parse("0.250,02") == Size(Fraction(1, 4), 2)
    assert [Size.parse(t).name for t in ("1,2", "0.25,1", "1/3,3")] == ["1x2", "0.25x1", "0.3333x3"]


@pytest.mark.parametrize("text", ["", "1", "0,2", "1.5,2", "0.5,0", "0.5,x", "nan,1", "1/0,2", "0.5,2,1", "-0.5,2"])
def test_a_wrong_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size must") as error:
        Size.parse(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("text", ["1/3,2", "0.5,4", "0.1,1"])
def test_a_size_that_the_model_has_not_is_refused(text: str) -> None:
    _, elastic = models()
    with pytest.raises(ValueError, match=f"size {text} must have"):
        elastic.resize(Size.parse(text))
    assert elastic.size == WHOLE


@pytest.mark.parametrize("change", [{"head_size": 5}, {"n_head": 5}])
def test_a_shape_that_families_cannot_group_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="n_embd must be a multiple"):
        GPTConfig(**vars(CONFIG) | change)


def test_a_narrow_gpt_has_that_many_weights() -> None:
    gpt = GPT(subnet_config(CONFIG, Size.parse("0.25,1")))
    shapes = {name: tuple(m.weight.shape) for name, m in gpt.blocks.named_modules() if isinstance(m, nn.Linear)}
    assert shapes == {
        "0.attn.c_attn": (24, 32),
        "0.attn.c_proj": (32, 8),
        "0.mlp.c_fc": (32, 32),
        "0.mlp.c_proj": (32, 32),
    }
