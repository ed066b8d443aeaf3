"""The contract of every dropout family: its site, and the GPT that has it."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from model import families
from model.dropout import Dropout, DropoutRate, rate_owners, set_dropout_rate, set_dropout_rates
from model.families import NANOGPT_SITES, SITES
from model.generate import generate
from model.gpt import GPT, Cache, GPTConfig
from model.levels import LEVELS
from model.masks import draw_bits
from model.regularizer import Regularizer
from model.sites import FamilySite

SIGMAS = 6
"""One in 500 million standard normals is farther out; the seeds are fixed on top."""
TINY = GPTConfig(vocab_size=13, block_size=8, n_layer=2, n_head=2, n_embd=16)
OUTPUTS = ("attention_output", "mlp_output")


def standard(*sites: str) -> dict[str, Any]:
    return {"kind": "standard", "sites": list(sites)}


def standout(**parameters: Any) -> dict[str, Any]:
    return {"kind": "standout", "alpha": 1.0, "elsewhere": "none"} | parameters


def blocks(prefix: str, block: int = 4, elsewhere: str = "none") -> dict[str, Any]:
    return {"kind": f"{prefix}dropblock", "block": block, "elsewhere": elsewhere}


def mix(drop: float = 0.5, over_time: bool = True, elsewhere: str = "none") -> dict[str, Any]:
    return {"kind": "mix", "drop": drop, "over_time": over_time, "elsewhere": elsewhere}


VARIANTS: dict[str, dict[str, Any]] = {
    "standard": {"kind": "standard"},
    "standard everywhere": standard(*SITES),
    "standout": standout(),
    "standout beside standard": standout(elsewhere="standard"),
    "standout raw": standout(calibrated=False),
    "standout learned": standout(learned=True),
    "standout learned raw": standout(learned=True, calibrated=False, elsewhere="standard"),
    "standout unsampled": standout(sampled=False),
    "standout learned unsampled": standout(learned=True, sampled=False),
    "dropblock": blocks(""),
    "dropblock beside standard": blocks("", elsewhere="standard"),
    "batchdropblock": blocks("batch"),
    "probdropblock": blocks("prob"),
    "mix": mix(),
    "mix by element": mix(over_time=False),
    "mix beside standard": mix(elsewhere="standard"),
    "path": {"kind": "path"},
}
every_family = pytest.mark.parametrize("family", VARIANTS.values(), ids=VARIANTS)
OTHERS = {name: family for name, family in VARIANTS.items() if family["kind"] != "standard"}
every_other_family = pytest.mark.parametrize("family", OTHERS.values(), ids=OTHERS)
"""All but standard dropout, of which test_dropout has the same tests."""


def gpt(
    family: dict[str, Any], rate: float = 0.3, *, train: bool = True, config: GPTConfig = TINY, seed: int = 1
) -> GPT:
    """Returns a GPT whose matrices are ten times the initial ones, so that its attention is far from even."""
    torch.manual_seed(seed)
    model = GPT(config, families.from_dict(family)).train(train)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter *= 10
    set_dropout_rate(model, rate)
    return model


def tokens(B: int = 3, T: int = TINY.block_size) -> Tensor:
    return torch.randint(TINY.vocab_size, (B, T), generator=torch.Generator().manual_seed(2))


def seeded(model: nn.Module, *inputs: Tensor, seed: int = 3) -> Any:
    torch.manual_seed(seed)
    return model(*inputs)


def gradients(model: GPT, seed: int = 3) -> dict[str, Tensor]:
    model.zero_grad()
    seeded(model, tokens(), tokens().flip(1), seed=seed)[1].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def site(family: dict[str, Any], rate: float, n_head: int = 4, weight: Tensor | None = None) -> FamilySite:
    made = families.from_dict(family)
    owner = DropoutRate(made.derived)
    owner.set(rate)
    result = FamilySite(made, owner, n_head, (0, 0) if weight is None else (weight.shape[0], weight.shape[1]))
    if weight is not None:
        result.start_from(weight)
    return result


def quantised(rate: float) -> float:
    return round(rate * LEVELS) / LEVELS


# --- what holds for every family ---


@every_family
def test_rate_0_is_off_bit_for_bit_and_draws_nothing(family: dict[str, Any]) -> None:
    model = gpt(family, 0.3)
    set_dropout_rate(model, 0.499 / LEVELS)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    logits = model(tokens())[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(logits, model.eval()(tokens())[0])
    assert torch.equal(logits, gpt({"kind": "standard"}, 0.0, train=False)(tokens())[0])


@every_family
def test_training_is_random_and_follows_the_seed(family: dict[str, Any]) -> None:
    model = gpt(family)
    a, b, c = (seeded(model, tokens(), seed=seed)[0] for seed in (3, 3, 4))
    assert torch.equal(a, b)
    assert torch.equal(a, c) == (family.get("sampled") is False and family["elsewhere"] == "none")
    assert not torch.equal(a, gpt(family, 0.0)(tokens())[0])


@every_family
def test_evaluation_draws_nothing_and_only_standout_changes_it(family: dict[str, Any]) -> None:
    model = gpt(family, 0.3, train=False)
    before = torch.get_rng_state()
    logits = model(tokens())[0]
    assert torch.equal(torch.get_rng_state(), before)
    unchanged = torch.equal(logits, gpt({"kind": "standard"}, 0.0, train=False)(tokens())[0])
    assert unchanged == (family["kind"] != "standout")


@every_family
@pytest.mark.parametrize("train", [True, False])
def test_future_tokens_change_nothing(family: dict[str, Any], train: bool) -> None:
    model = gpt(family, train=train)
    for changed in (1, 7):
        x = tokens()
        other = x.clone()
        other[:, changed] = (other[:, changed] + 1) % TINY.vocab_size
        before, after = seeded(model, x)[0], seeded(model, other)[0]
        assert torch.equal(before[:, :changed], after[:, :changed])
        assert not torch.equal(before[:, changed:], after[:, changed:])


@every_family
def test_a_cache_changes_no_logits_and_no_sample(family: dict[str, Any]) -> None:
    model = gpt(family, train=False)
    x, cache = tokens(), Cache(model, batch_size=3)
    with torch.no_grad():
        parts = [model(part, cache=cache)[0] for part in (x[:, :3], *x[:, 3:].split(1, dim=1))]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(x)[0])
    samples = [
        generate(model, x[:, :2], 20, generator=torch.Generator().manual_seed(8), cached=cached)
        for cached in (False, True)
    ]
    assert torch.equal(*samples)


@every_family
@pytest.mark.parametrize("bias", [False, True])
def test_initial_weights_depend_on_the_seed_only(family: dict[str, Any], bias: bool) -> None:
    config = GPTConfig(**(vars(TINY) | {"bias": bias}))
    torch.manual_seed(1)
    plain, state = dict(GPT(config).named_parameters()), torch.get_rng_state()
    torch.manual_seed(1)
    model = GPT(config, families.from_dict(family))
    assert torch.equal(torch.get_rng_state(), state)
    own = dict(model.named_parameters())
    assert all(torch.equal(own.pop(name), weight) for name, weight in plain.items())
    learned = [f"blocks.{i}.mlp.hidden_dropout.weight" for i in range(2)] if family.get("learned") else []
    assert list(own) == learned
    for i, name in enumerate(learned):
        assert torch.equal(own[name], plain[f"blocks.{i}.mlp.c_fc.weight"])


@every_family
def test_saved_weights_are_those_of_the_standard_model_and_the_rate_of_standout(family: dict[str, Any]) -> None:
    plain, model = gpt({"kind": "standard"}), gpt(family)
    more = model.state_dict().keys() - plain.state_dict().keys()
    expected = {"rate_levels"} if family["kind"] == "standout" else set()
    expected |= {"weight"} if family.get("learned") else set()
    assert more == {f"blocks.{i}.mlp.hidden_dropout.{name}" for i in range(2) for name in expected}
    set_dropout_rates(model, [0.2, 0.4])
    again = gpt(family, 0.0, train=False, seed=9)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(tokens())[0], model.eval()(tokens())[0])


@every_family
def test_each_block_has_its_rate_and_one_at_0_is_off(family: dict[str, Any]) -> None:
    model = gpt(family)
    inputs: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, output: inputs.append(output))
    set_dropout_rates(model, [0.0, 0.5])
    assert [owner.value for owner in rate_owners(model)] == [0.0, 0.5]
    noisy = seeded(model, tokens())[0]
    first = inputs[0]
    inputs.clear()
    quiet = model.eval()
    set_dropout_rate(quiet, 0.0)
    quiet(tokens())
    assert torch.equal(first, inputs[0])  # the embedding's site is the first block's too
    assert not torch.equal(noisy, quiet(tokens())[0])


RATES = [0.0, 0.9, 0.0, *(0.5 - 0.04 * i for i in range(10)), 0.0, 0.3]


COMPILED = ("standard", "standout beside standard", "standout learned", "dropblock", "batchdropblock", "probdropblock",
    "mix", "path")  # fmt: skip


@pytest.mark.parametrize("name", COMPILED)
def test_at_most_three_graphs_whatever_changes(name: str) -> None:
    torch._dynamo.reset()
    family = VARIANTS[name]
    model, counter = gpt(family), CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    plain = gpt({"kind": "standard"}, 0.0, train=False)(tokens())[0]
    for i, rate in enumerate(RATES):
        set_dropout_rates(compiled, [rate, rate if i % 3 else 0.0])
        logits = compiled.train()(tokens(), tokens())[0]
        if rate == 0:
            assert torch.equal(logits, plain)
        elif family["kind"] not in ("standout", "path"):
            assert not torch.equal(logits, compiled(tokens(), tokens())[0])
        with torch.no_grad():
            evaluated = compiled.eval()(tokens(), tokens())[0]
            torch.testing.assert_close(evaluated, model(tokens())[0])
    assert counter.frame_count <= 3


@pytest.mark.slow
def test_annealing_twelve_layers_over_200_rates_makes_at_most_three_graphs() -> None:
    torch._dynamo.reset()
    config = GPTConfig(vocab_size=5, block_size=2, n_layer=12, n_head=1, n_embd=4)
    regularizer = Regularizer.from_dict(
        {
            "schedule": {"kind": "linear", "initial_rate": 0.5, "final_rate": 0.1},
            "family": VARIANTS["standout beside standard"],  # standard sites and one that works in evaluation
            "depth": {"kind": "annealed", "until": 0.9},
        }
    )
    model, counter = GPT(config, regularizer.family), CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    x = torch.zeros(1, 2, dtype=torch.long)
    patterns = set()
    for step in range(200):
        rates = regularizer.rates(step / 200, 12)
        patterns.add(tuple(rate > 0 for rate in rates))
        set_dropout_rates(compiled, rates)
        compiled.train()(x, x)
        with torch.no_grad():
            compiled.eval()(x, x)
    assert len(patterns) == 13
    assert counter.frame_count <= 3


@pytest.mark.parametrize("rates", [[0.1], [0.1, 0.2, 0.3], [], [0.1, 1.0], [0.1, math.nan], [0.1, True], [None, 0.1]])
def test_rates_that_are_none_of_the_blocks_are_refused(rates: list[Any]) -> None:
    model = gpt(VARIANTS["mix"], 0.25)
    with pytest.raises(ValueError, match="dropout rate"):
        set_dropout_rates(model, rates)
    assert [owner.value for owner in rate_owners(model)] == [0.25, 0.25]


@pytest.mark.parametrize("prefix", ["", "batch", "prob"])
def test_a_block_larger_than_a_head_is_refused(prefix: str) -> None:
    GPT(TINY, families.from_dict(blocks(prefix, 8)))
    with pytest.raises(ValueError, match=rf"block of a {prefix}dropblock family must be at most 8.*got 9"):
        GPT(TINY, families.from_dict(blocks(prefix, 9)))


def test_what_stands_where() -> None:
    model = gpt(blocks("", elsewhere="standard"))
    block = model.blocks[1]
    assert isinstance(model.embedding_dropout, Dropout)
    assert isinstance(block.attn.probability_dropout, Dropout)
    assert isinstance(block.attn.output_dropout, FamilySite)
    assert isinstance(block.mlp.output_dropout, FamilySite)
    assert not block.mlp.hidden_dropout.active
    assert model.embedding_dropout.rate is model.blocks[0].mlp.output_dropout.rate is not block.mlp.output_dropout.rate


# --- exact special cases ---

HIDDEN = ("mlp_hidden",)
SPECIAL_CASES: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "standout, alpha 0": (standout(alpha=0.0), standard(*HIDDEN), 0.3),
    "standout, alpha 0, raw": (standout(alpha=0.0, calibrated=False), standard(*HIDDEN), 0.7),
    "standout, alpha 0, learned": (standout(alpha=0.0, learned=True), standard(*HIDDEN), 1 / LEVELS),
    "standout, alpha 0, beside standard": (
        standout(alpha=0.0, elsewhere="standard"),
        standard(*NANOGPT_SITES, *HIDDEN),
        0.2,
    ),
    "dropblock, block 1": (blocks("", 1), standard(*OUTPUTS), 0.3),
    "dropblock, block 1, beside standard": (blocks("", 1, "standard"), {"kind": "standard"}, 0.123),
    "mix, rate = drop": (mix(0.3, over_time=False), standard("before_gelu"), 0.3),
    "mix, rate = drop, another": (mix(0.123456, over_time=False), standard("before_gelu"), 0.123456),
    "mix, rate = drop, beside standard": (
        mix(0.5, over_time=False, elsewhere="standard"),
        standard(*NANOGPT_SITES, "before_gelu"),
        0.5,
    ),
}


@pytest.mark.parametrize(("family", "same", "rate"), SPECIAL_CASES.values(), ids=SPECIAL_CASES)
def test_a_special_case_is_standard_dropout_bit_for_bit(
    family: dict[str, Any], same: dict[str, Any], rate: float
) -> None:
    a, b = gpt(family, rate), gpt(same, rate)
    assert torch.equal(seeded(a, tokens())[0], seeded(b, tokens())[0])
    assert torch.equal(seeded(a, tokens())[0].eq(0), seeded(b, tokens())[0].eq(0))
    mine, theirs = gradients(a), gradients(b)
    for name, gradient in theirs.items():
        assert torch.equal(mine.pop(name), gradient), name
    assert not any(gradient.any() for gradient in mine.values())  # a learned mask that alpha 0 ignores
    assert torch.equal(a.eval()(tokens())[0], b.eval()(tokens())[0])


def test_batchdropblock_of_one_head_with_block_1_is_standard_dropout_bit_for_bit() -> None:
    config = GPTConfig(**(vars(TINY) | {"n_head": 1}))
    a, b = gpt(blocks("batch", 1), config=config), gpt(standard(*OUTPUTS), config=config)
    assert torch.equal(seeded(a, tokens())[0], seeded(b, tokens())[0])


@pytest.mark.parametrize("magnitude", [1.0, 0.3, 1e-6, 12345.678])
@pytest.mark.parametrize("rate", [1 / LEVELS, 0.01, 0.3, 0.77])
def test_probdropblock_with_block_1_and_equal_magnitudes_is_standard_dropout(rate: float, magnitude: float) -> None:
    x = magnitude * (2.0 * torch.randint(0, 2, (8, 16, 32)) - 1)
    own = site(blocks("prob", 1), rate)
    plain = Dropout(DropoutRate())
    set_dropout_rate(plain, rate)
    assert torch.equal(seeded(own, x), seeded(plain, x))


def test_mix_at_a_rate_above_its_drop_is_standard_dropout_at_its_drop() -> None:
    x = torch.randn(4, 8, 32)
    plain = Dropout(DropoutRate())
    set_dropout_rate(plain, 0.3)
    assert torch.equal(seeded(site(mix(0.3, over_time=False), 0.6), x), seeded(plain, x))


# --- shares, means and variances ---


@pytest.mark.parametrize("rate", [0.05, 0.5])
@pytest.mark.parametrize("block", [1, 2, 3, 4, 8, 32])
@pytest.mark.parametrize("prefix", ["", "batch", "prob"])
def test_the_dropped_share_of_structured_dropout_is_the_rate(prefix: str, block: int, rate: float) -> None:
    torch.manual_seed(6)
    shape, p = (32, 32, 128), quantised(rate)
    y = site(blocks(prefix, block), rate)(torch.ones(shape))
    n = math.prod(shape) / (4 if prefix == "batch" else 1)  # four heads share a mask
    sigma = math.sqrt(
        p * (1 - p) * min(2 * block - 1, 32) / n
    )  # a channel's fate is tied to 2 block - 1 others at most
    rounding = block / LEVELS
    assert (y == 0).double().mean().item() == pytest.approx(p, abs=SIGMAS * sigma + rounding)
    assert y.double().mean().item() == pytest.approx(1, abs=(SIGMAS * sigma + rounding) / (1 - p))
    kept = y[y != 0]
    assert torch.equal(kept, kept[:1].expand(len(kept)))
    assert kept[0].item() == pytest.approx(1 / (1 - p), rel=2 * rounding / (1 - p))


@pytest.mark.parametrize("rate", [0.05, 0.49])
@pytest.mark.parametrize("over_time", [True, False])
def test_the_multiplier_of_mix_has_mean_1_and_the_variance_of_standard_dropout(over_time: bool, rate: float) -> None:
    torch.manual_seed(7)
    p, shape = quantised(rate), (1024, 1, 512) if over_time else (64, 16, 512)
    y = site(mix(0.5, over_time), rate)(torch.ones(shape)).double()
    low, high = y.unique().tolist()
    assert ((high - 1) * (1 - low)) == pytest.approx(p / (1 - p), rel=1e-5)  # of two values with mean 1
    n = y.numel()
    assert y.mean().item() == pytest.approx(1, abs=SIGMAS * math.sqrt(p / (1 - p) / n))
    assert low > 0
    if over_time:
        x = torch.ones(2, 8, 16)
        mixed = site(mix(), rate)(x)
        assert torch.equal(mixed, mixed[:, :1].expand(2, 8, 16))
        assert not torch.equal(mixed[0], mixed[1])


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.8])
def test_a_path_is_dropped_whole_for_each_sequence(rate: float) -> None:
    torch.manual_seed(8)
    p, n = quantised(rate), 20_000
    y = site({"kind": "path"}, rate)(torch.ones(n, 2, 2))
    assert torch.equal(y, y[:, :1, :1].expand(n, 2, 2))
    share = (y[:, 0, 0] == 0).double().mean().item()
    assert share == pytest.approx(p, abs=SIGMAS * math.sqrt(p * (1 - p) / n))
    assert y.max().item() == pytest.approx(1 / (1 - p), rel=1e-6)


def test_a_dropped_path_skips_the_block_and_a_kept_one_is_scaled() -> None:
    model = gpt({"kind": "path"}, 0.5)
    block, x = model.blocks[0], torch.randn(64, 8, 16)
    y = seeded(block, x)
    branch = block.eval()(x) - x
    skipped = (y == x).all(-1).all(-1)
    assert 10 < skipped.sum() < 54
    torch.testing.assert_close(y[~skipped], (x + 2 * branch)[~skipped])


@pytest.mark.parametrize("changes", [{}, {"calibrated": False}, {"alpha": 3.0}, {"learned": True}], ids=str)
def test_the_mean_of_standout_over_masks_is_its_evaluation(changes: dict[str, Any]) -> None:
    torch.manual_seed(9)
    x, z, source, n = torch.ones(2, 3, 8), 2 * torch.randn(2, 3, 8), torch.randn(2, 3, 4), 1000
    own = site(standout(**changes), 0.3, weight=torch.randn(8, 4) if "learned" in changes else None)
    with torch.no_grad():
        masks = torch.stack([own(x, z, source) for _ in range(n)]).double()
        expected = own.eval()(x, z, source).double()
    p = quantised(0.3)
    theta = expected * (1 - p)
    sigma = (theta * (1 - theta) / n).sqrt() / (1 - p)
    assert ((masks.mean(0) - expected).abs() <= SIGMAS * sigma + 2 / LEVELS).all()
    assert expected.max() / expected.min() > 1.5


# --- independent references ---


def block_reference(prefix: str, block: int, rate: float, x: np.ndarray, bits: np.ndarray, n_head: int) -> np.ndarray:
    """Returns the multiplier by plain loops over the channels of each head of each token."""
    B, T, C = x.shape
    hs, p = C // n_head, quantised(rate)
    seed_rate = 1 - (1 - p) ** (1 / block)
    kept = np.ones((B, T, C))
    for b, t, h, i in np.ndindex(B, T, n_head, hs):
        own = bits[b, t, 0, i] if prefix == "batch" else bits[b, t, h, i]
        salience = abs(x[b, t, h * hs + i]) / np.abs(x[b, t]).mean() if prefix == "prob" else 1.0
        if own < round(LEVELS * seed_rate * salience):
            for reach in range(block):
                kept[b, t, h * hs + (i + reach) % hs] = 0
    return kept / (1 - p)


@pytest.mark.parametrize("rate", [0.1, 0.4])
@pytest.mark.parametrize("block", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("prefix", ["", "batch", "prob"])
def test_blocks_are_those_of_plain_loops(prefix: str, block: int, rate: float) -> None:
    x = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(1))
    shape = (3, 5, 1 if prefix == "batch" else 4, 8)
    torch.manual_seed(3)
    bits = draw_bits(shape, x).double().numpy()
    expected = block_reference(prefix, block, rate, x.double().numpy(), bits, n_head=4)
    y = seeded(site(blocks(prefix, block), rate), x, seed=3)
    torch.testing.assert_close(y.double(), x.double() * torch.from_numpy(expected), rtol=1e-3, atol=0)
    assert torch.equal(y == 0, torch.from_numpy(expected) == 0)


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("calibrated", [True, False])
def test_standout_and_its_gradients_are_those_of_float64(calibrated: bool, learned: bool, sampled: bool) -> None:
    torch.manual_seed(10)
    alpha, rate = 1.5, 0.3
    p, weight = quantised(rate), torch.randn(32, 8)
    h, z, source = torch.randn(4, 6, 32), torch.randn(4, 6, 32), torch.randn(4, 6, 8)
    inputs = [t.clone().requires_grad_() for t in (h, z, source)]
    own = site(
        standout(alpha=alpha, calibrated=calibrated, learned=learned, sampled=sampled), rate,
        weight=weight if learned else None,
    )  # fmt: skip
    y = seeded(own, *inputs)
    gradient = torch.randn_like(y)
    y.backward(gradient)

    H, Z, S, W = (t.double().requires_grad_() for t in (h, z, source, weight))
    logits = S @ W.T if learned else Z.detach()
    if calibrated:
        logits = (logits - logits.mean(-1, keepdim=True)) / logits.std(-1, keepdim=True, unbiased=False)
    theta = torch.sigmoid(alpha * logits + math.log((1 - p) / p))
    torch.manual_seed(3)
    bits = draw_bits(h.shape, h).double()
    mask = (bits >= (LEVELS * (1 - theta.detach())).round()).double() if sampled else theta.detach()
    expected = H * ((mask + theta - theta.detach()) if learned else mask) / (1 - p)
    expected.backward(gradient.double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    pairs = [(inputs[0].grad, H.grad)]
    if learned:
        assert own.weight is not None
        pairs += [(inputs[2].grad, S.grad), (own.weight.grad, W.grad)]
    for found, exact in pairs:
        assert found is not None
        assert exact is not None
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)
    assert inputs[1].grad is None  # nothing through the pre-activation


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4, 1e15])
def test_extreme_pre_activations_give_numbers(scale: float, calibrated: bool) -> None:
    z = scale * torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1))
    for rate in (1 / LEVELS, 0.5, 1 - 1 / LEVELS):
        own = site(standout(alpha=2.0, calibrated=calibrated), rate)
        for made in (own(torch.ones(2, 3, 16), z, z), own.eval()(torch.ones(2, 3, 16), z, z)):
            assert torch.isfinite(made).all()


@every_other_family
def test_gradients_pass_where_values_pass(family: dict[str, Any]) -> None:
    torch.manual_seed(11)
    own = site(family, 0.4, weight=torch.randn(16, 4) if family.get("learned") else None)
    x, z, source = torch.ones(4, 8, 16, requires_grad=True), torch.randn(4, 8, 16), torch.randn(4, 8, 4)
    y = own(x, z, source)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


@every_other_family
def test_a_compiled_site_follows_its_rate(family: dict[str, Any]) -> None:
    """Compiled code draws other bits and reads tensors: its share and its scale are those of eager code."""
    torch._dynamo.reset()
    own = site(family, 0.0, weight=torch.randn(16, 4) if family.get("learned") else None)
    compiled = torch.compile(own, backend="eager", fullgraph=True)
    x, z, source = torch.ones(512, 8, 16), torch.randn(512, 8, 16), torch.randn(512, 8, 4)
    for rate in (0.1, 0.0, 0.45):
        own.rate.set(rate, active=True)
        with torch.no_grad():
            eager, found = (torch.stack([call(x, z, source) for _ in range(8)]).double() for call in (own, compiled))
        sigma = 2 * math.sqrt(
            rate / (1 - rate) * 16 * 8 / x.numel() / 8
        )  # masks may be shared by 8 tokens of a sequence
        if family["kind"] == "path":
            sigma *= 4
        assert found.mean().item() == pytest.approx(eager.mean().item(), abs=SIGMAS * sigma + 1e-6)
        assert found.std().item() == pytest.approx(eager.std().item(), rel=0.2, abs=1e-6)
        if rate == 0:
            assert torch.equal(found, torch.ones_like(found))
