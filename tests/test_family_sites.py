"""The contract of every dropout family at its site: special cases, shares, means, references and gradients."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from model.dropout import Dropout, DropoutRate, set_dropout_rate
from model.families import NANOGPT_SITES
from model.gpt import GPTConfig
from model.levels import LEVELS
from model.masks import draw_bits
from tests.families import (
    OUTPUTS,
    SIGMAS,
    TINY,
    blocks,
    every_other_family,
    gpt,
    gradients,
    mix,
    quantised,
    seeded,
    site,
    standard,
    standout,
    tokens,
)

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
