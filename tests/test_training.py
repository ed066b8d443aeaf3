"""The training loop: what it records, what decides its numbers, and that stopping it changes none of them."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.dropout import LEVELS, DropoutRate
from model.schedules import from_dict
from study.base.errors import DivergenceError, UserError
from study.corpus import Corpus, build_corpus
from study.training.graphed_steps import GraphedSteps
from study.training.learning_rate import learning_rate
from study.training.trainer import Trainer
from tests.small_training import (
    CONFIG,
    EVALUATIONS,
    LINEAR,
    VAL_LOSS,
    ZERO,
    numbers,
    same,
    small_corpus,
    trainer,
    weights,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with small_corpus(tmp_path_factory.mktemp("cache")) as corpus:
        yield corpus


def batches(run: Trainer) -> list[Tensor]:
    """Trains to the end; returns the inputs of the updates."""
    seen: list[Tensor] = []
    run.model.register_forward_pre_hook(lambda model, inputs: seen.append(inputs[0]) if model.training else None)
    run.train_steps(run.config.steps)
    return seen


def test_weight_decay_is_on_matrices_only(corpus: Corpus) -> None:
    runs = []
    for decay in (0.0, 0.5):
        runs.append(trainer(corpus, bias=True, weight_decay=decay))
        runs[-1].train_steps(1)
    for a, b in zip(*(run.model.parameters() for run in runs), strict=True):
        assert torch.equal(a, b) == (a.dim() < 2)


def test_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    config = replace(CONFIG, steps=104, learning_rate=1.0, min_learning_rate=0.2)
    assert [learning_rate(config, step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    expected = [0.6 + 0.4 * math.cos(math.pi * (step - 4) / 100) for step in range(4, 105)]
    assert [learning_rate(config, step) for step in range(4, 105)] == pytest.approx(expected)
    assert learning_rate(config, 104) == pytest.approx(0.2)
    assert learning_rate(replace(config, warmup_steps=0), 0) == 1.0


@pytest.mark.parametrize("schedule", [LINEAR, VAL_LOSS])
def test_records_hold_what_the_updates_use(corpus: Corpus, schedule: dict[str, Any]) -> None:
    run = trainer(corpus, schedule)
    (owner,) = (module for module in run.model.modules() if isinstance(module, DropoutRate))
    used = []

    def on_step(step: int) -> None:
        used.append((owner.scale.item(), run.optimizer.param_groups[0]["lr"], run.optimizer.param_groups[1]["lr"]))
        assert step == len(used)

    records = list(run.run(on_step))
    assert [p.step for p in records] == EVALUATIONS
    assert len(used) == CONFIG.steps
    for p in records:
        assert p.progress == p.step / CONFIG.steps
        assert p.learning_rate == learning_rate(CONFIG, p.step)
        if schedule is LINEAR:
            assert p.dropout_rate == from_dict(LINEAR).rate(p.step / CONFIG.steps)
        if p.step < CONFIG.steps:
            scale, *rates = used[p.step]
            assert scale == pytest.approx(1 / (1 - p.dropout_rate), abs=4 / LEVELS)
            assert rates == [p.learning_rate] * 2
    if schedule is VAL_LOSS:
        listener = from_dict(VAL_LOSS)
        assert [listener.observe(p.val_loss) or listener.rate(0.0) for p in records] == [
            p.dropout_rate for p in records
        ]
        steps = np.diff([p.dropout_rate for p in records])
        assert steps.min() < 0 < steps.max()  # so that the tests of resuming have both


def test_records_hold_the_best_so_far_and_the_mean_training_loss(corpus: Corpus) -> None:
    records = list(trainer(corpus).run())
    again = trainer(corpus)
    losses = [again.train_steps(1) for _ in range(CONFIG.steps)]
    assert records[0].train_loss == losses[0]
    means = [np.mean(losses[a:b]) for a, b in pairwise(EVALUATIONS)]
    assert [p.train_loss for p in records[1:]] == pytest.approx(means, rel=1e-6)
    val_losses = [p.val_loss for p in records]
    assert [p.best_val_loss for p in records] == np.minimum.accumulate(val_losses).tolist()
    assert [p.best_step for p in records] == [EVALUATIONS[np.argmin(val_losses[: i + 1])] for i in range(6)]


def test_evaluations_leave_the_random_streams_alone(corpus: Corpus) -> None:
    with_evaluations = trainer(corpus)
    list(with_evaluations.run())
    without = trainer(corpus)
    without.train_steps(CONFIG.steps)
    assert same(weights(with_evaluations), weights(without))


@pytest.mark.parametrize("share", [1.0, 0.3, 0.001])
def test_val_loss_is_the_mean_over_the_windows(corpus: Corpus, share: float) -> None:
    run = trainer(corpus, val_share=share)
    run.train_steps(3)
    tokens = torch.from_numpy(corpus.split("val").astype(np.int64))
    windows = [(tokens[i : i + 8], tokens[i + 1 : i + 9]) for i in range(0, len(tokens) - 1, 8)]
    assert len(windows) == 13
    assert len(windows[-1][1]) == 5
    n = max(1, round(share * 13))
    windows = [windows[int(i * 13 / n)] for i in range(n)]
    expected = run.validate()
    run.model.eval()
    with torch.no_grad():
        terms = [F.log_softmax(run.model(x[None, : len(y)])[0][0], dim=-1).gather(1, y[:, None]) for x, y in windows]
    assert expected == pytest.approx(-torch.cat(terms).double().mean().item(), rel=1e-6)
    run.model.train()
    assert run.validate() == run.validate() == expected
    assert run.model.training


def test_data_order_depends_on_the_seed_alone(corpus: Corpus) -> None:
    first = batches(trainer(corpus, ZERO))
    assert len(first) == CONFIG.steps
    assert same(first, batches(trainer(corpus, LINEAR)))
    assert same(first, batches(trainer(corpus, VAL_LOSS, n_embd=32, learning_rate=1e-3)))
    assert not same(first, batches(trainer(corpus, ZERO, seed=8)))
    assert not torch.equal(first[0], first[1])


def test_train_chars_cuts_training_only(corpus: Corpus) -> None:
    whole, cut = trainer(corpus), trainer(corpus, train_chars=300)
    assert cut.validate() == whole.validate()
    a_and_b = set(corpus.encode("ab"))
    assert {token for x in batches(cut) for token in x.flatten().tolist()} == a_and_b
    assert {token for x in batches(whole) for token in x.flatten().tolist()} > a_and_b


def test_tokens_of_two_bytes_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wide = build_corpus("".join(map(chr, range(0x4E00, 0x4E00 + 400))))
    assert wide.tokens.dtype == np.uint16
    assert all(math.isfinite(p.val_loss) for p in trainer(wide, steps=2).run())


def test_bfloat16_trains(corpus: Corpus) -> None:
    records = list(trainer(corpus, dtype="bfloat16").run())
    assert records[-1].best_val_loss < records[0].val_loss
    assert records[0].val_loss == pytest.approx(trainer(corpus).validate(), abs=0.01)


def test_divergence_names_the_step(corpus: Corpus) -> None:
    with pytest.raises(DivergenceError, match=r"loss is (nan|inf) at step 5$"):
        list(trainer(corpus, learning_rate=1e30).run())


@pytest.mark.parametrize(("changes", "split"), [({"block_size": 102}, "val"), ({"train_chars": 8}, "train")])
def test_too_short_a_split_is_refused(corpus: Corpus, changes: dict[str, int], split: str) -> None:
    with pytest.raises(UserError, match=f"{split} split has"):
        trainer(corpus, **changes)
    longer = {name: value + (1 if name == "train_chars" else -1) for name, value in changes.items()}
    list(trainer(corpus, **longer, steps=1).run())


def graphed(run: Trainer) -> Trainer:
    """Lets a trainer make the steps that CUDA graphs replay, here without graphs."""
    run.graphed = GraphedSteps(run)
    return run


@pytest.mark.parametrize("schedule", [LINEAR, VAL_LOSS, ZERO])
def test_the_steps_of_cuda_graphs_are_bit_identical(corpus: Corpus, schedule: dict[str, Any]) -> None:
    plain = trainer(corpus, schedule)
    expected = numbers(list(plain.run()))
    run = graphed(trainer(corpus, schedule))
    assert numbers(list(run.run())) == expected
    assert same(weights(run), weights(plain))


def test_a_run_goes_on_from_steps_of_either_kind(corpus: Corpus) -> None:
    whole = trainer(corpus, VAL_LOSS)
    expected = numbers(list(whole.run()))
    for first, second in ((graphed, lambda run: run), (lambda run: run, graphed), (graphed, graphed)):
        begun = first(trainer(corpus, VAL_LOSS))
        for progress in begun.run():
            if progress.step == 10:
                break
        state = begun.state_dict()
        assert [group["lr"] for group in state["optimizer"]["param_groups"]] == [learning_rate(CONFIG, 9)] * 2
        resumed = second(trainer(corpus, VAL_LOSS))
        resumed.load_state_dict(state)
        list(resumed.run())
        assert numbers(resumed.history) == expected
        assert same(weights(resumed), weights(whole))
