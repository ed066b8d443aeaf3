"""The training loop: what it records, what decides its numbers, and that stopping it changes none of them."""

import math
import random
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
from study.training.config import TrainingConfig
from study.training.evaluation_rows import Labels
from study.training.graphed_steps import GraphedSteps
from study.training.learning_rate import learning_rate
from study.training.progress import Progress
from study.training.run_folder import RunFolder
from study.training.trainer import Trainer

CONFIG = TrainingConfig(
    n_layer=1, n_head=2, n_embd=16, block_size=8, batch_size=4, steps=22, learning_rate=1e-2, min_learning_rate=1e-3,
    warmup_steps=4, eval_interval=5, seed=7,
)  # fmt: skip
EVALUATIONS = [0, 5, 10, 15, 20, 22]
ZERO = {"kind": "constant", "rate": 0.0}
LINEAR = {"kind": "linear", "initial_rate": 0.5, "final_rate": 0.0}
# At this learning rate the validation loss goes both up and down, so that the rate does too.
VAL_LOSS = {"kind": "val_loss", "initial_rate": 0.4, "final_rate": 0.0, "factor": 0.5, "patience": 1, "min_delta": 0.0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    """2,041 characters: 300 of a and b alone, then words of ten letters. Its last window is not full."""
    rng = random.Random(1)
    text = "".join(rng.choices("ab", k=300)) + " ".join("".join(rng.choices("abcdefghij", k=4)) for _ in range(349))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield build_corpus(text[:2041])


def trainer(corpus: Corpus, schedule: dict[str, Any] = LINEAR, **changes: Any) -> Trainer:
    return Trainer(replace(CONFIG, **changes), from_dict(schedule), corpus)


TIMES = ("tokens_per_second", "train_seconds", "time_ms")


def numbers(records: list[Progress]) -> list[dict[str, Any]]:
    """Returns the records without the times, which no two runs share."""
    return [{k: v for k, v in p.to_dict().items() if k not in TIMES} for p in records]


def weights(run: Trainer) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in run.model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


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


@pytest.fixture(autouse=True)
def checkpoint_at_every_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.training.run_folder.CHECKPOINT_SHARE", math.inf)


def run_in(folder: Path, run: Trainer, stop: int | None = None) -> list[Progress]:
    """Trains in a folder to the end, or until `stop` evaluations were yielded, as if the process was killed then."""
    records: list[Progress] = []
    for progress in RunFolder(folder).run(run, Labels()):
        records.append(progress)
        if len(records) == stop:
            break
    torch.manual_seed(0)  # another process has other random streams
    return records


@pytest.mark.parametrize("stop", range(1, len(EVALUATIONS) + 1))
@pytest.mark.parametrize("schedule", [LINEAR, VAL_LOSS])
def test_resumed_run_is_bit_identical(corpus: Corpus, tmp_path: Path, schedule: dict[str, Any], stop: int) -> None:
    whole = trainer(corpus, schedule)
    expected = run_in(tmp_path / "whole", whole)
    stopped = trainer(corpus, schedule)
    before = run_in(tmp_path / "stopped", stopped, stop)
    resumed = trainer(corpus, schedule)
    after = run_in(tmp_path / "stopped", resumed)
    assert numbers(before) == numbers(expected[:stop])
    assert numbers(after) == numbers(expected[stop - 1 :])  # the last one is yielded again
    assert numbers(resumed.history) == numbers(expected)
    assert same(weights(resumed), weights(whole))
    assert resumed.train_seconds > stopped.train_seconds or stop == len(EVALUATIONS)
    folder = RunFolder(tmp_path / "stopped")
    best = RunFolder(tmp_path / "whole").load_best(corpus)
    assert same(list(folder.load_best(corpus).parameters()), list(best.parameters()))
    assert [row["val_loss"] for row in folder.rows()] == [p.val_loss for p in expected]
    folder.finish()
    assert not folder.resume.exists()


def test_run_killed_between_evaluations_goes_on_from_the_last_one(corpus: Corpus, tmp_path: Path) -> None:
    whole = trainer(corpus, VAL_LOSS)
    expected = run_in(tmp_path / "whole", whole)

    def die(step: int) -> None:
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(RunFolder(tmp_path / "killed").run(trainer(corpus, VAL_LOSS), Labels(), die))
    resumed = trainer(corpus, VAL_LOSS)
    assert numbers(run_in(tmp_path / "killed", resumed)) == numbers(expected[2:])
    assert same(weights(resumed), weights(whole))


def test_checkpoints_dearer_than_their_share_are_left_out(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trainer(corpus, VAL_LOSS)
    expected = run_in(tmp_path / "whole", whole)
    monkeypatch.setattr("study.training.run_folder.CHECKPOINT_SHARE", 1e-9)
    run_in(tmp_path / "stopped", trainer(corpus, VAL_LOSS), 4)
    assert [checkpoint.name for checkpoint in RunFolder(tmp_path / "stopped").resume.iterdir()] == ["step-00000000"]
    resumed = trainer(corpus, VAL_LOSS)
    assert numbers(run_in(tmp_path / "stopped", resumed)) == numbers(expected)
    assert same(weights(resumed), weights(whole))


def test_evaluations_that_others_have_seen_survive_many_deaths(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of an evaluation is not the same when it is made again, and MLflow has the first."""
    monkeypatch.setattr("study.training.run_folder.CHECKPOINT_SHARE", 1e-9)
    folder = RunFolder(tmp_path / "run")
    run_in(folder.path, trainer(corpus, VAL_LOSS), 4)
    seen = folder.rows()
    assert len(seen) == 4
    for deaths, stop in enumerate((1, 2, 3)):
        run_in(folder.path, trainer(corpus, VAL_LOSS), stop)
        assert folder.rows() == seen, deaths
    lines = folder.metrics.read_text().splitlines(keepends=True)
    folder.metrics.write_text("".join([*lines[:2], "damaged\n", lines[3]]))
    run_in(folder.path, trainer(corpus, VAL_LOSS))
    after = folder.rows()
    assert [row["step"] for row in after] == EVALUATIONS
    assert [row["tokens_per_second"] for row in after[:4] if row["step"] != seen[2]["step"]] == [
        row["tokens_per_second"] for row in seen if row["step"] != seen[2]["step"]
    ]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "name", "damaged"),
    [
        (flip, "state.pt", 1),
        (truncate, "state.pt", 1),
        (Path.unlink, "state.pt", 1),
        (truncate, "manifest.json", 1),
        (Path.unlink, "manifest.json", 1),
        (flip, "state.pt", 2),
    ],
)
def test_damaged_checkpoint_is_passed_over(
    corpus: Corpus, tmp_path: Path, damage: Any, name: str, damaged: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole = trainer(corpus, VAL_LOSS)
    expected = run_in(tmp_path / "whole", whole)
    run_in(tmp_path / "stopped", trainer(corpus, VAL_LOSS), 4)
    checkpoints = sorted(RunFolder(tmp_path / "stopped").resume.iterdir(), reverse=True)
    assert [checkpoint.name for checkpoint in checkpoints] == ["step-00000015", "step-00000010"]
    for checkpoint in checkpoints[:damaged]:
        damage(checkpoint / name)
    resumed = trainer(corpus, VAL_LOSS)
    after = run_in(tmp_path / "stopped", resumed)
    assert numbers(after) == numbers(expected[2:] if damaged == 1 else expected)  # from the start if none is good
    assert same(weights(resumed), weights(whole))
    assert [checkpoint.name in caplog.text for checkpoint in checkpoints] == [True, damaged == 2]


def test_best_weights_are_kept(corpus: Corpus, tmp_path: Path) -> None:
    run = trainer(corpus, VAL_LOSS)
    records = run_in(tmp_path, run)
    assert records[-1].best_step < CONFIG.steps
    run.model.load_state_dict(RunFolder(tmp_path).load_best(corpus).state_dict())
    assert run.validate() == records[-1].best_val_loss


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
