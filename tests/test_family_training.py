"""Training with any family and depth: graphs, resuming, and the weights that a run leaves."""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_model
from torch import Tensor

from model.dropout import rate_owners
from model.families import Standard
from model.gpt import GPT
from model.regularizer import Regularizer
from model.schedules import Linear
from study.base.errors import UserError
from study.corpus import Corpus, build_corpus
from study.training.config import TrainingConfig
from study.training.evaluation_rows import Labels
from study.training.fits import gpt_config
from study.training.graphed_steps import GraphedSteps
from study.training.measures import measure_best
from study.training.measures_file import Measures
from study.training.progress import Progress
from study.training.run_folder import RunFolder
from study.training.trainer import Trainer

CONFIG = TrainingConfig(
    n_layer=2, n_head=2, n_embd=16, block_size=8, batch_size=4, steps=22, learning_rate=1e-2, min_learning_rate=1e-3,
    warmup_steps=4, eval_interval=5, seed=7,
)  # fmt: skip
VAL_LOSS = {"kind": "val_loss", "initial_rate": 0.4, "final_rate": 0.1, "factor": 0.5, "patience": 1, "min_delta": 0.0}
FALLING_RATE = {"kind": "linear", "initial_rate": 0.5, "final_rate": 0.0}
ANNEALED = {"kind": "annealed", "until": 0.7}
REGULARIZERS: dict[str, dict[str, Any]] = {
    "standard, rising": {"schedule": VAL_LOSS, "depth": {"kind": "rising"}},
    "standard, annealed": {"schedule": FALLING_RATE, "depth": ANNEALED},
    "standout": {"schedule": VAL_LOSS, "family": {"kind": "standout", "alpha": 1.0}},
    "standout learned, falling": {
        "schedule": FALLING_RATE,
        "family": {"kind": "standout", "alpha": 0.5, "learned": True, "elsewhere": "none"},
        "depth": {"kind": "falling"},
    },
    "standout unsampled, annealed": {
        "schedule": VAL_LOSS,
        "family": {"kind": "standout", "alpha": 1.0, "sampled": False},
        "depth": ANNEALED,
    },
    "dropblock": {"schedule": FALLING_RATE, "family": {"kind": "dropblock", "block": 4}},
    "batchdropblock, annealed": {
        "schedule": VAL_LOSS,
        "family": {"kind": "batchdropblock", "block": 2, "elsewhere": "none"},
        "depth": ANNEALED,
    },
    "probdropblock, rising": {
        "schedule": FALLING_RATE,
        "family": {"kind": "probdropblock", "block": 8},
        "depth": {"kind": "rising"},
    },
    "mix, annealed": {"schedule": VAL_LOSS, "family": {"kind": "mix", "drop": 0.5}, "depth": ANNEALED},
    "path, rising": {"schedule": FALLING_RATE, "family": {"kind": "path"}, "depth": {"kind": "rising"}},
}
every_regularizer = pytest.mark.parametrize("regularizer", REGULARIZERS.values(), ids=REGULARIZERS)
STANDOUTS = {name: d for name, d in REGULARIZERS.items() if name.startswith("standout")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    rng = random.Random(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield build_corpus(" ".join("".join(rng.choices("abcdefghij", k=4)) for _ in range(400)))


@pytest.fixture(autouse=True)
def checkpoint_at_every_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.training.run_folder.CHECKPOINT_SHARE", math.inf)


def numbers(records: list[Progress]) -> list[tuple[float, ...]]:
    return [(p.step, p.dropout_rate, p.train_loss, p.val_loss, p.best_val_loss, p.best_step) for p in records]


def state(run: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_schedule_its_dict_and_its_regularizer_train_the_same(corpus: Corpus) -> None:
    schedule = Linear(0.5, 0.0)
    forms = (schedule, schedule.to_dict(), Regularizer(schedule), {"schedule": schedule.to_dict()})
    found = [numbers(list(Trainer(CONFIG, form, corpus).run())) for form in forms]
    assert found[0] == found[1] == found[2] == found[3]


@every_regularizer
def test_updates_use_the_rate_of_each_block_and_records_the_nominal_one(corpus: Corpus, regularizer: Any) -> None:
    run = Trainer(CONFIG, regularizer, corpus)
    owners, listener = rate_owners(run.model), Regularizer.from_dict(regularizer)
    used: list[list[float]] = []
    for p in run.run(lambda step: used.append([owner.value for owner in owners])):
        listener.observe(p.val_loss)
        assert p.dropout_rate == listener.rate(p.progress)
        wanted = list(listener.rates(p.progress, 2))
        if p.step < CONFIG.steps:
            assert run.rates(p.step) == tuple(wanted)
    assert len(used) == CONFIG.steps
    if regularizer["schedule"] is FALLING_RATE:
        wanted = [list(listener.rates(step / CONFIG.steps, 2)) for step in range(CONFIG.steps)]
        assert used == [pytest.approx(rates, abs=1e-5) for rates in wanted]


@every_regularizer
def test_steps_as_graphs_make_them_are_the_same_without_cuda(corpus: Corpus, regularizer: Any) -> None:
    plain = Trainer(CONFIG, regularizer, corpus)
    expected = numbers(list(plain.run()))
    graphed = Trainer(CONFIG, regularizer, corpus)
    graphed.graphed = GraphedSteps(graphed)
    assert numbers(list(graphed.run())) == expected
    assert same(state(graphed), state(plain))
    for mine, theirs in zip(rate_owners(graphed.model), rate_owners(plain.model), strict=True):
        assert {n: b.item() for n, b in mine.named_buffers()} == {n: b.item() for n, b in theirs.named_buffers()}


@pytest.mark.parametrize("stop", [1, 3, 6])
@every_regularizer
def test_a_resumed_run_is_bit_identical(corpus: Corpus, tmp_path: Path, regularizer: Any, stop: int) -> None:
    whole = Trainer(CONFIG, regularizer, corpus)
    expected = list(whole.run())
    stopped = Trainer(CONFIG, regularizer, corpus)
    records = stopped.run()
    for _ in range(stop):
        next(records)
    torch.save(stopped.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(0)  # another process has other random streams
    resumed = Trainer(CONFIG, regularizer, corpus)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.validate() == expected[stop - 1].val_loss
    list(resumed.run())
    assert numbers(resumed.history) == numbers(expected)
    assert same(state(resumed), state(whole))


@pytest.mark.parametrize("regularizer", STANDOUTS.values(), ids=STANDOUTS)
def test_the_best_weights_of_standout_evaluate_to_the_recorded_loss(
    corpus: Corpus, tmp_path: Path, regularizer: Any
) -> None:
    overfitting = replace(CONFIG, steps=60, train_chars=200, min_learning_rate=1e-2)
    run = Trainer(overfitting, regularizer, corpus)
    folder = RunFolder(tmp_path)
    best = list(folder.run(run, Labels()))[-1]
    assert 0 < best.best_step < 60  # so that the rate has changed since
    judge = Trainer(run.config, regularizer, corpus)
    load_model(judge.model, str(folder.weights))
    assert judge.validate() == best.best_val_loss
    model = GPT(gpt_config(run.config, len(corpus.vocab)), run.regularizer.family)
    load_model(model, str(folder.weights))
    x = judge.val_windows[0][:2].long()
    assert torch.equal(model.eval()(x)[0], judge.model.eval()(x)[0])
    measure_best(Measures(), folder, run, corpus)  # in the trainer, at whose last rate they would be another function
    assert run.validate() == best.best_val_loss


@every_regularizer
def test_compiling_leaves_the_rates_and_so_the_evaluation(corpus: Corpus, regularizer: Any) -> None:
    run = Trainer(CONFIG, regularizer, corpus)
    run.train_steps(5)
    before, rates = run.validate(), [owner.value for owner in rate_owners(run.model)]
    run.compile()
    assert run.validate() == before
    assert [owner.value for owner in rate_owners(run.model)] == rates


def test_evaluation_is_at_the_rate_of_the_last_update(corpus: Corpus) -> None:
    schedule = {"kind": "late", "peak_rate": 0.5, "cutoff": 0.5}
    run = Trainer(replace(CONFIG, steps=10), {"schedule": schedule, "family": {"kind": "standout", "alpha": 1}}, corpus)
    records = list(run.run())
    assert [p.step for p in records] == [0, 5, 10]
    assert [p.dropout_rate for p in records] == [0.0, 0.5, 0.5]
    assert run.validate() == records[-1].val_loss
    off = Trainer(run.config, {"kind": "constant", "rate": 0.0}, corpus)
    assert off.validate() == records[0].val_loss
    weights = {name: value for name, value in run.model.state_dict().items() if "rate_levels" not in name}
    off.model.load_state_dict(weights)
    assert off.validate() != records[-1].val_loss


def test_a_learned_mask_learns_and_has_weight_decay(corpus: Corpus) -> None:
    run = Trainer(CONFIG, REGULARIZERS["standout learned, falling"], corpus)
    name = "blocks.0.mlp.hidden_dropout.weight"
    weight = dict(run.model.named_parameters())[name]
    assert any(weight is p for p in run.optimizer.param_groups[0]["params"])
    run.train_steps(10)
    assert not torch.equal(weight, run.model.blocks[0].mlp.c_fc.weight)


def test_a_family_that_does_not_fit_the_config_is_refused_before_anything_starts(corpus: Corpus) -> None:
    with pytest.raises(UserError, match="block of a dropblock family must be at most 8, the channels of a head, got 9"):
        Trainer(CONFIG, {"schedule": VAL_LOSS, "family": {"kind": "dropblock", "block": 9}}, corpus)


def test_bfloat16_trains_with_every_family(corpus: Corpus) -> None:
    for regularizer in REGULARIZERS.values():
        records = list(Trainer(replace(CONFIG, dtype="bfloat16", steps=5), regularizer, corpus).run())
        assert math.isfinite(records[-1].val_loss)


def test_the_control_has_the_same_weights_data_and_first_evaluation(corpus: Corpus) -> None:
    run = Trainer(CONFIG, REGULARIZERS["dropblock"], corpus)
    plain = Trainer(CONFIG, Regularizer(run.schedule, Standard(run.regularizer.family.all_sites)), corpus)
    assert run.validate() == plain.validate()
    assert torch.equal(run._draw_starts(3), plain._draw_starts(3))
