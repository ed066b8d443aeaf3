"""The task supernet: its steps, its sizes' losses, and that stopping it changes none of them."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from model.divergence import adaptive_divergence
from model.elastic import ElasticGPT
from model.gpt import GPT
from model.levels import LEVELS
from model.scaled_adam import ScaledAdam
from model.schedules import from_dict
from model.size import KINDS, Size
from study.corpus import Corpus
from study.tasks.supernet import SupernetTrainer
from study.training.evaluation_rows import metrics_of
from study.training.run_folder import RunFolder
from study.training.supernet_config import subnet_training
from study.training.trainer import Trainer
from tests.small_supernet import CONFIG, PLAIN, SIZES, supernet, words_corpus
from tests.small_training import LINEAR, VAL_LOSS, ZERO, numbers, run_in, same, weights

EVALUATIONS = [0, 5, 10, 12]
STANDOUT = {"schedule": {"kind": "constant", "rate": 0.3}, "family": {"kind": "standout", "alpha": 1.0}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with words_corpus(tmp_path_factory.mktemp("cache")) as corpus:
        yield corpus


@pytest.fixture(autouse=True)
def checkpoint_at_every_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.training.run_folder.CHECKPOINT_SHARE", math.inf)


class Watched(SupernetTrainer):
    """Notes what each forward pass in training works with."""

    def watch(self) -> list[tuple[str, float]]:
        seen: list[tuple[str, float]] = []
        self.model.register_forward_pre_hook(
            lambda model, inputs: seen.append((str(model.size), self._owners[0].value)) if model.training else None
        )
        return seen


@pytest.mark.parametrize("rule", KINDS)
def test_a_step_trains_the_largest_the_smallest_and_random_sizes_at_their_rates(corpus: Corpus, rule: str) -> None:
    regularizer = {"schedule": LINEAR, "size_rule": {"kind": rule}}
    run = Watched(replace(CONFIG, n_random=2, steps=12), regularizer, corpus)
    seen = run.watch()
    run.train_steps(12)
    assert len(seen) == 12 * 4
    drawn = []
    for step in range(12):
        largest, smallest, *others = seen[4 * step : 4 * step + 4]
        rate = 0.5 * (1 - step / 12)
        assert largest == ("1,2", pytest.approx(rate, abs=1 / LEVELS))
        expected = {"width": 0.25 * rate, "same": rate, "largest": 0.0}[rule]
        assert smallest == ("0.25,1", pytest.approx(expected, abs=1 / LEVELS))
        assert len({size for size, _ in others}) == 2
        for size, found in others:
            width = float(Size.parse(size).width)
            expected = {"width": width * rate, "same": rate, "largest": 0.0}[rule]
            assert found == pytest.approx(expected, abs=1 / LEVELS)
            drawn.append(size)
    assert set(drawn) == {"0.75,2", "0.5,2", "0.5,1"}
    assert run.model.size == SIZES[0]
    assert run._owners[0].value == pytest.approx(0.5 / 12, abs=1 / LEVELS)


def test_an_update_is_one_clipped_step_on_the_summed_gradients(corpus: Corpus) -> None:
    """Against the losses written out, on a model of its own. Dropout is off, so that no mask must be shared."""
    run = supernet(corpus, ZERO, distillation=0.3, alpha_low=-0.5, alpha_high=2.0, importance_clip=3.0)
    own = ElasticGPT(run.model.config)
    own.load_state_dict(run.model.state_dict())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in own.parameters() if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in own.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=run.config.learning_rate / 4,  # the first of three steps of warm-up
        betas=(0.9, 0.99),
        fused=True,
    )
    generator = torch.Generator()
    generator.set_state(run.size_generator.get_state())
    state = run.data_generator.get_state()
    x, y = run._batch(run._draw_starts(1)[0])
    run.data_generator.set_state(state)
    found = run.train_steps(1)
    teacher, largest = own(x, y)
    loss = largest
    (drawn,) = torch.randperm(3, generator=generator)[:1].tolist()
    for size in (SIZES[-1], SIZES[1:-1][drawn]):
        own.resize(size)
        logits, entropy = own(x, y)
        loss = loss + 0.7 * entropy + 0.3 * adaptive_divergence(logits, teacher.detach(), -0.5, 2.0, 3.0)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(own.parameters(), 1.0)
    assert norm > 1  # it was clipped
    optimizer.step()
    assert found == largest.item()
    for a, b in zip(run.model.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_without_distillation_sizes_learn_from_the_text_alone(corpus: Corpus) -> None:
    found = []
    for share, clip in ((0.0, 1.0), (0.0, 9.0), (1.0, 9.0)):
        run = supernet(corpus, distillation=share, importance_clip=clip)
        run.train_steps(3)
        found.append(weights(run))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_val_loss_is_the_mean_of_the_sizes_losses_which_are_metrics(corpus: Corpus) -> None:
    run = supernet(corpus)
    records = list(run.run())
    assert [p.step for p in records] == EVALUATIONS
    names = [f"val_loss_{name}" for name in ("1x2", "0.75x2", "0.5x2", "0.5x1", "0.25x1")]
    for p in records:
        assert list(p.metrics) == names
        assert p.val_loss == sum(p.metrics.values()) / 5
    assert len(set(records[-1].metrics.values())) == 5
    x, y = (t.long() for t in run.val_windows)
    for size, loss in zip(SIZES, records[-1].metrics.values(), strict=True):  # by the ordinary GPT of each
        logits = run.model.extract(size)(x)[0].detach().double()
        expected = F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-1).item()
        assert loss == pytest.approx(expected, abs=1e-6)
    assert records[-1].val_loss < records[0].val_loss
    assert all(math.isfinite(loss) for loss in records[-1].metrics.values())


def test_evaluations_leave_the_random_streams_alone(corpus: Corpus) -> None:
    with_evaluations = supernet(corpus)
    list(with_evaluations.run())
    without = supernet(corpus)
    without.train_steps(CONFIG.steps)
    assert same(weights(with_evaluations), weights(without))


@pytest.mark.parametrize("stop", range(1, len(EVALUATIONS)))
@pytest.mark.parametrize(
    ("regularizer", "optimizer"),
    [(LINEAR, "adamw"), (VAL_LOSS, "adamw"), (STANDOUT, "adamw"), (LINEAR, "scaled_adam")],
)
def test_resumed_run_is_bit_identical(
    corpus: Corpus, tmp_path: Path, regularizer: dict[str, Any], optimizer: str, stop: int
) -> None:
    whole = supernet(corpus, regularizer, optimizer=optimizer)
    expected = run_in(tmp_path / "whole", whole)
    before = run_in(tmp_path / "stopped", supernet(corpus, regularizer, optimizer=optimizer), stop)
    resumed = supernet(corpus, regularizer, optimizer=optimizer)
    after = run_in(tmp_path / "stopped", resumed)
    assert numbers(before) == numbers(expected[:stop])
    assert numbers(after) == numbers(expected[stop - 1 :])
    assert same(weights(resumed), weights(whole))
    assert [metrics_of(row)["val_loss_0.5x1"] for row in RunFolder(tmp_path / "stopped").rows()] == [
        p.metrics["val_loss_0.5x1"] for p in expected
    ]
    best = RunFolder(tmp_path / "stopped").load_best(corpus)
    assert type(best) is GPT
    assert same(list(best.parameters()), list(RunFolder(tmp_path / "whole").load_best(corpus).parameters()))


def test_a_size_alone_trains_as_a_gpt_of_its_own(corpus: Corpus) -> None:
    config = subnet_training(CONFIG, Size.parse("0.75,2"))
    alone = Trainer(config, from_dict(LINEAR), corpus)
    assert alone.model.config.n_head == 3
    assert alone.model.blocks[0].attn.c_proj.weight.shape == (16, 12)  # type: ignore[union-attr]
    records = list(alone.run())
    assert records[-1].val_loss < records[0].val_loss
    found = []
    for config in (subnet_training(CONFIG, SIZES[0]), PLAIN):
        run = Trainer(config, from_dict(LINEAR), corpus)
        run.train_steps(5)
        found.append(weights(run))
    assert same(found[0], found[1])


def test_scaled_adam_trains_all_weights(corpus: Corpus) -> None:
    run = supernet(corpus, ZERO, optimizer="scaled_adam", learning_rate=0.05, steps=60, eval_interval=60)
    assert isinstance(run.optimizer, ScaledAdam)
    records = list(run.run())
    assert records[-1].val_loss < records[0].val_loss - 0.3


def test_compiling_leaves_the_size_the_rates_and_the_numbers(corpus: Corpus) -> None:
    other = supernet(corpus, STANDOUT)
    other.train_steps(3)
    run = supernet(corpus, STANDOUT)
    expected, rates = run.validate(), run._rates_now()
    run.compile()  # without a compiler: what it does beside compiling
    assert run.model.size == SIZES[0]
    assert run._rates_now() == rates
    assert run.validate() == expected
    assert all(p.grad is None for p in run.model.parameters())
    run.train_steps(3)
    assert same(weights(run), weights(other))
