"""The contract of every dropout family in a GPT: what is drawn, saved, compiled, cached and refused."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from model import families
from model.dropout import Dropout, rate_owners, set_dropout_rate, set_dropout_rates
from model.generate import generate
from model.gpt import GPT, Cache, GPTConfig
from model.levels import LEVELS
from model.regularizer import Regularizer
from model.sites import FamilySite
from tests.families import (
    TINY,
    VARIANTS,
    blocks,
    every_family,
    gpt,
    seeded,
    tokens,
)


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
