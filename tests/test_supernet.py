"""The task supernet: its steps, its sizes' losses, that stopping it changes none of them, and the export of a size."""

import math
import random
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.divergence import adaptive_divergence
from model.elastic import ElasticGPT
from model.gpt import GPT
from model.levels import LEVELS
from model.regularizer import Regularizer
from model.scaled_adam import ScaledAdam
from model.schedules import from_dict
from model.size import KINDS, ByWidth, Size
from search_spaces import supernet as space
from study.base.errors import UserError
from study.corpus import Corpus, build_corpus
from study.tasks.supernet import SupernetTrainer, extract_run
from study.training.config import PRESETS, TrainingConfig
from study.training.evaluation_rows import Labels, metrics_of
from study.training.fits import gpt_config
from study.training.progress import Progress
from study.training.run_folder import RunFolder
from study.training.schedule_file import read_schedule_file
from study.training.supernet_config import SUPERNET_PRESETS, SubnetConfig, SupernetConfig, subnet_training
from study.training.task_config import read_config
from study.training.trainer import Trainer

CONFIG = SupernetConfig(
    n_layer=2, n_head=4, n_embd=16, block_size=8, batch_size=4, steps=12, learning_rate=1e-2, min_learning_rate=1e-3,
    warmup_steps=3, eval_interval=5, val_share=0.5, seed=7, sizes="1,2 0.75,2 0.5,2 0.5,1 0.25,1",
)  # fmt: skip
SIZES = CONFIG.size_list()
EVALUATIONS = [0, 5, 10, 12]
ZERO = {"kind": "constant", "rate": 0.0}
LINEAR = {"kind": "linear", "initial_rate": 0.5, "final_rate": 0.0}
VAL_LOSS = {"kind": "val_loss", "initial_rate": 0.4, "final_rate": 0.0, "factor": 0.5, "patience": 1, "min_delta": 0.0}
STANDOUT = {"schedule": {"kind": "constant", "rate": 0.3}, "family": {"kind": "standout", "alpha": 1.0}}
TIMES = ("tokens_per_second", "train_seconds", "time_ms")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    """2,000 characters of four words: the next letter follows from the last ones, save at the start of a word."""
    text = " ".join(random.Random(1).choices(("abcd", "bdfh", "cagi", "jihg"), k=400))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield build_corpus(text)


@pytest.fixture(autouse=True)
def checkpoint_at_every_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.training.run_folder.CHECKPOINT_SHARE", math.inf)


def supernet(corpus: Corpus, regularizer: dict[str, Any] = LINEAR, **changes: Any) -> SupernetTrainer:
    return SupernetTrainer(replace(CONFIG, **changes), Regularizer.from_dict(regularizer), corpus)


def numbers(records: list[Progress]) -> list[dict[str, Any]]:
    return [{k: v for k, v in p.to_dict().items() if k not in TIMES} for p in records]


def weights(model: torch.nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


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
        found.append(weights(run.model))
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
    assert same(weights(with_evaluations.model), weights(without.model))


def run_in(folder: Path, run: SupernetTrainer, stop: int | None = None) -> list[Progress]:
    records: list[Progress] = []
    for progress in RunFolder(folder).run(run, Labels()):
        records.append(progress)
        if len(records) == stop:
            break
    torch.manual_seed(0)  # another process has other random streams
    return records


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
    assert same(weights(resumed.model), weights(whole.model))
    assert [metrics_of(row)["val_loss_0.5x1"] for row in RunFolder(tmp_path / "stopped").rows()] == [
        p.metrics["val_loss_0.5x1"] for p in expected
    ]
    best = RunFolder(tmp_path / "stopped").load_best(corpus)
    assert type(best) is GPT
    assert same(weights(best), weights(RunFolder(tmp_path / "whole").load_best(corpus)))


@pytest.mark.parametrize(
    "regularizer", [{"schedule": LINEAR, "size_rule": {"kind": "same"}}, STANDOUT], ids=["standard", "standout"]
)
@pytest.mark.parametrize("size", ["1,2", "0.5,2", "0.25,1"])
def test_an_exported_size_is_an_ordinary_gpt_with_the_same_logits(
    corpus: Corpus, tmp_path: Path, size: str, regularizer: dict[str, Any]
) -> None:
    run = supernet(corpus, regularizer)
    records = run_in(tmp_path / "run", run)
    assert records[-1].best_step == CONFIG.steps  # so that the run's weights are the best
    found = extract_run(tmp_path / "run", Size.parse(size), tmp_path / "made" / "size")
    exported = RunFolder(tmp_path / "made" / "size")
    gpt = exported.load_best(corpus)
    assert type(gpt) is GPT
    assert sum(p.numel() for p in gpt.parameters()) == found.parameters
    assert (found.size, found.step) == (Size.parse(size), CONFIG.steps)
    run._use(Size.parse(size), run._rates_now())
    run.model.eval()
    x, y = (t.long() for t in run.val_windows)
    for a, b in zip(gpt(x, y), run.model(x, y), strict=True):
        assert torch.equal(a, b)
    file = read_schedule_file(exported.config)
    assert file.training == subnet_training(run.config, Size.parse(size))
    assert file.provenance == {"supernet_size": size}
    assert file.size_rule == ByWidth(), "it has one size, and its file is one of the plain format where it can be"
    alone = Trainer(file.training, file.regularizer, corpus)  # type: ignore[arg-type]
    name = f"val_loss_{Size.parse(size).name}"
    alone.model.load_state_dict(gpt.state_dict())
    assert alone.validate() == records[-1].metrics[name]


def test_what_cannot_be_exported_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    run_in(tmp_path / "run", supernet(corpus), 1)
    with pytest.raises(UserError, match=r"size 0\.25,2 was not trained: give one of 1,2 or 0\.75,2"):
        extract_run(tmp_path / "run", Size.parse("0.25,2"), tmp_path / "out")
    plain = PRESETS["smoke"].training
    list(RunFolder(tmp_path / "plain").run(Trainer(replace(plain, steps=1), from_dict(ZERO), corpus), Labels()))
    with pytest.raises(UserError, match="this is no supernet: only --task supernet has sizes"):
        extract_run(tmp_path / "plain", Size.parse("1,1"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
        found.append(weights(run.model))
    assert same(found[0], found[1])


PLAIN = TrainingConfig(**{k: v for k, v in asdict(CONFIG).items() if k in asdict(PRESETS["smoke"].training)})


def test_scaled_adam_trains_all_weights(corpus: Corpus) -> None:
    run = supernet(corpus, ZERO, optimizer="scaled_adam", learning_rate=0.05, steps=60, eval_interval=60)
    assert isinstance(run.optimizer, ScaledAdam)
    records = list(run.run())
    assert records[-1].val_loss < records[0].val_loss - 0.3


def test_configs_are_told_by_their_keys() -> None:
    for config in (CONFIG, PLAIN, subnet_training(CONFIG, SIZES[1])):
        again = read_config(asdict(config))
        assert type(again) is type(config)
        assert again == config
    assert gpt_config(CONFIG, 9) == gpt_config(PLAIN, 9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sizes": "0.5,2 0.25,1"}, "sizes must begin with the whole model, 1,2, got '0.5,2 0.25,1'"),
        ({"sizes": "1,1 0.5,1"}, "sizes must begin with the whole model, 1,2"),
        ({"sizes": "1,2"}, "sizes must be two or more, none twice, the smallest last"),
        ({"sizes": "1,2 0.5,2 0.5,2"}, "sizes must be two or more, none twice, the smallest last"),
        ({"sizes": "1,2 0.25,1 0.5,2"}, "sizes must be two or more, none twice, the smallest last"),
        ({"sizes": "1,2 1/3,2"}, "size 1/3,2 must have a whole number of the 4 heads and of the 64 hidden units: give"),
        ({"sizes": "1,2 0.5,3"}, "size 0.5,3 must have at most 2 blocks"),
        ({"sizes": ""}, "sizes must begin with"),
        ({"sizes": "1,2 half,1"}, "a size must be WIDTH,DEPTH, as in 0.5,2 or 1/3,2, got 'half,1'"),
        ({"n_random": 4}, "n_random must be at most 3"),
        ({"distillation": 1.5}, "distillation must be a number in [0, 1], got 1.5"),
        ({"importance_clip": 0.5}, "importance_clip must be a number of at least 1"),
        ({"alpha_low": 11}, "alpha_low must be a number from -10 to 10"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, scaled_adam, got 'sgd'"),
        ({"cuda_graphs": True}, "cuda_graphs must be false for a supernet"),
    ],
)
def test_a_wrong_config_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        replace(CONFIG, **change)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_size_alone_is_refused() -> None:
    with pytest.raises(UserError, match="n_embd must be a multiple of head_size, got 16 and 5"):
        SubnetConfig(**asdict(PLAIN), head_size=5, n_hidden=8)


@pytest.mark.parametrize("name", SUPERNET_PRESETS)
def test_presets_are_those_of_the_language_model_with_sizes(name: str) -> None:
    preset = SUPERNET_PRESETS[name]
    own, plain = asdict(preset.training), asdict(PRESETS[name].training)
    assert {key: own[key] for key in plain} == plain
    SupernetConfig.from_dict(own | dict(preset.on_cuda))


def test_the_space_searches_the_rule() -> None:
    rules = set()
    for _, parameters in space.KNOWN_GOOD.items():
        suggested = space.suggest(optuna.trial.FixedTrial(parameters))  # type: ignore[arg-type]
        assert suggested.keys() == {"schedule", "size_rule"}
        rules.add(Regularizer.from_dict(suggested).size_rule)
    assert rules == {rule() for rule in KINDS.values()}


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
    assert same(weights(run.model), weights(other.model))
