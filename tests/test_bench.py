"""The benchmark compares like with like; what it measures is for a quiet machine, not for a test."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from model.dropout import set_dropout_rate
from model.gpt import GPT, GPTConfig
from model.schedules import Constant
from study.bench import __main__ as bench
from study.bench.contestants import PlainGPT, Shape, products
from study.bench.studies import gaps, train_plainly
from study.bench.timing import in_turn, ratio
from study.corpus import load_corpus
from study.training.config import PRESETS
from study.training.trainer import Trainer
from tests.conftest import run

SHAPE = Shape(GPTConfig(vocab_size=13, block_size=8, n_layer=2, n_head=2, n_embd=16), batch_size=3)


def test_plain_gpt_is_ours_written_plainly() -> None:
    gpt = GPT(SHAPE.model)
    plain = PlainGPT(SHAPE.model, 0.0).load(gpt)
    x, y = SHAPE.batch("cpu")
    set_dropout_rate(gpt, 0.0)
    losses = [gpt(x, y)[1], plain(x, y)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(gpt.wte.weight.grad, plain.wte.weight.grad)
    plain.set_rate(0.5)
    assert len({float(plain(x, y).detach()) for _ in range(3)}) == 3


def test_products_are_those_of_a_step() -> None:
    """6 operations a weight and token, forward and backward, and 12 a pair of tokens and channel in attention."""
    c, tokens = SHAPE.model, SHAPE.batch_size * SHAPE.model.block_size
    weights = c.n_layer * 12 * c.n_embd**2 + c.vocab_size * c.n_embd
    attention = c.n_layer * 12 * c.block_size * c.n_embd * tokens
    assert products(SHAPE)[1] == 6 * weights * tokens + attention


def test_contestants_take_turns() -> None:
    calls: list[str] = []
    seconds = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b", "a", "b", "b", "a", "a", "b"]  # the first two warm up
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_ratio_pairs_the_rounds() -> None:
    assert ratio({"a": [1.0, 20.0, 3.0], "b": [2.0, 10.0, 6.0]}, "a", "b") == 0.5


def test_gaps_run_from_the_end_before_to_the_first_evaluation() -> None:
    two_slots = [(0.0, 1.0, 10.0), (0.0, 1.5, 12.0), (10.1, 10.5, 20.0), (12.0, 12.25, 30.0)]
    assert gaps(two_slots) == pytest.approx([0.5, 0.25])


def test_plain_training_is_ours_written_plainly() -> None:
    config = replace(PRESETS["smoke"].training, weight_decay=0.0)  # the script decays vectors too
    corpus = load_corpus("shakespeare")
    ours = [p.val_loss for p in Trainer(config, Constant(0.0), corpus).run()]
    best, _ = train_plainly(config, Constant(0.0), corpus)
    assert best == pytest.approx(min(ours), rel=1e-4)


@pytest.mark.slow
def test_bench_writes_its_numbers(tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples are short: it is not the speed that is tested."""
    done = run(["-m", "study.bench", "--only", "steps", "--rounds", "1", "--output", "steps.json"], tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(bench, "bench_sampling", partial(bench.bench_sampling, n=16))
    assert bench.main(["--only", "sampling", "--output", str(tmp_path / "sampling.json")]) == 0
    steps, sampling = (json.loads((tmp_path / f"{part}.json").read_text()) for part in ("steps", "sampling"))
    assert {"step_vs_plain_1_thread", "step_vs_plain_2_threads", "step_dropout_cost", "step_vs_floor"} <= steps.keys()
    assert "cached_sampling_speedup" in sampling
    assert all(isinstance(value, float) and value > 0 for value in [*steps.values(), *sampling.values()])
