"""A run of the user's own task: it can be stopped and continued bit for bit."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.regularizer import Regularizer
from model.schedules import from_dict
from study.tasks.own_trainer import TaskTrainer
from study.tasks.try_out import try_out
from study.training import run_folder
from study.training.evaluation_rows import Labels
from study.training.progress import Progress
from study.training.run_folder import RunFolder
from study.training.schedule_file import read_schedule_file
from tests.own_tasks import FALLING, STEERED, error_of, numbers, short_task, task_trainer, write_task

pytestmark = pytest.mark.usefixtures("one_thread", "own_cache", "no_threads_left")
CATCHES_ALL = """\
import torch


def train(run):
    model = torch.nn.Dropout(0.2)
    run.drive(model)
    run.keep(model=model)
    try:
        for step in run.steps():
            if run.is_due(step):
                run.report(val_loss=1.0)
    except Exception:
        (run.folder / "caught").touch()
    finally:
        (run.folder / "finally").touch()
    (run.folder / "returned").touch()
"""
ORDERS = ("update first", "evaluate first")


def weights(trainer: TaskTrainer) -> dict[str, torch.Tensor]:
    assert trainer.loop is not None
    assert trainer.loop.model is not None
    return {name: tensor.clone() for name, tensor in trainer.loop.model.state_dict().items()}


def test_evaluations_have_the_steps_rates_and_rows_of_a_language_model(tmp_path: Path) -> None:
    trainer = task_trainer(write_task(tmp_path), order="update first", steps=10)
    done: list[int] = []
    evaluations = list(trainer.run(done.append))
    assert done == list(range(1, 11))
    assert [p.step for p in evaluations] == [0, 4, 8, 10]
    assert [p.progress for p in evaluations] == [0, 0.4, 0.8, 1]
    assert [p.dropout_rate for p in evaluations] == pytest.approx([0.4, 0.24, 0.08, 0])
    assert [p.metrics["rate"] for p in evaluations] == pytest.approx([0.4, 0.28, 0.12, 0.04])  # of steps 0, 3, 7, 9
    assert [p.learning_rate for p in evaluations] == pytest.approx([0.02, 0.02 / 4, 0.02 / 8, 0.02 / 10])
    losses = [p.val_loss for p in evaluations]
    assert [p.best_val_loss for p in evaluations] == [min(losses[: i + 1]) for i in range(4)]
    assert all(p.train_loss is None and p.tokens_per_second is None for p in evaluations)
    assert evaluations[0].train_seconds < evaluations[-1].train_seconds
    assert trainer.step == 10
    assert list(trainer.run()) == []


@pytest.mark.parametrize("order", ORDERS)
def test_a_val_loss_schedule_hears_each_evaluation(order: str, tmp_path: Path) -> None:
    """The rate of a step is that of the evaluations of the steps before it."""
    schedule = from_dict(STEERED)
    for progress in task_trainer(write_task(tmp_path), STEERED, order=order, steps=20).run():
        assert progress.metrics["rate"] == schedule.rate(0)
        schedule.observe(progress.val_loss)
        assert progress.dropout_rate == schedule.rate(0)
    assert schedule.rate(0) < 0.2


def test_a_run_of_one_step_has_one_evaluation_at_its_end(tmp_path: Path) -> None:
    assert [p.step for p in task_trainer(write_task(tmp_path), order="update first", steps=1).run()] == [1]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("schedule", [FALLING, STEERED], ids=["linear", "val_loss"])
def test_a_run_that_is_killed_and_continued_equals_one_that_is_not(
    order: str, schedule: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "CHECKPOINT_SHARE", 1e9)  # a checkpoint at each evaluation
    files = write_task(tmp_path)
    whole = task_trainer(files, schedule, order=order)
    expected = numbers(list(whole.run()))
    killed = random.Random(f"{order}{schedule}").sample(range(1, 13), 4)
    for step in killed:
        folder = RunFolder(tmp_path / f"{step}")

        def kill(done: int, at: int = step) -> None:
            if done == at:
                raise KeyboardInterrupt

        seen: list[Progress] = []
        with pytest.raises(KeyboardInterrupt):
            seen.extend(folder.run(task_trainer(files, schedule, order=order), Labels(), kill))
        for _ in range(3):  # the generators of another process
            torch.rand(1), np.random.rand(), random.random()
        continued = task_trainer(files, schedule, order=order)
        rest = list(folder.run(continued, Labels()))
        before = [p for p in seen if p.step < rest[0].step]
        assert numbers([*before, *rest]) == expected
        assert rest[0].step == (seen[-1].step if seen else 0)
        assert all(torch.equal(a, b) for a, b in zip(weights(continued).values(), weights(whole).values(), strict=True))


def test_a_run_folder_keeps_the_weights_that_were_evaluated_and_the_metrics(tmp_path: Path) -> None:
    """The task writes the step into its weights, before and after its evaluation; the second is the best."""
    files = short_task(
        tmp_path,
        before="run.drive(model); run.keep(model=model); losses = [3.0, 1.0, 2.0]",
        step="""model[0].bias.data.fill_(step)
        if run.is_due(step):
            run.report(val_loss=losses.pop(0), train_loss=torch.tensor(0.5), learning_rate=0.25, half=np.float32(0.5))
        model[0].bias.data.fill_(-1)""",
    )
    files = write_task(tmp_path, f"import numpy as np\n{files.contents['my_task.py'].decode()}")
    trainer = task_trainer(files, steps=8, width=3, name="x")
    folder = RunFolder(tmp_path / "run")
    for _ in folder.run(trainer, Labels(study="s", trial=3)):
        pass
    assert load_file(folder.weights)["0.bias"].tolist() == [3.0, 3.0]
    assert weights(trainer)["0.bias"].tolist() == [-1.0, -1.0]
    assert read_schedule_file(folder.config).training == trainer.config
    rows = folder.rows()
    assert [(row["step"], row["val_loss"], row["train_loss"], row["learning_rate"]) for row in rows] == [
        (0, 3.0, 0.5, 0.25), (4, 1.0, 0.5, 0.25), (8, 2.0, 0.5, 0.25),
    ]  # fmt: skip
    assert [row["metrics"] for row in rows] == [{"half": 0.5}] * 3
    assert {row["outcome"] for row in rows} == {"completed"}
    again = task_trainer(files, steps=8, width=3, name="x")
    assert [p.step for p in folder.run(again, Labels(study="s", trial=3))] == [8]


def test_shared_weights_stay_shared_where_they_are_kept(tmp_path: Path) -> None:
    files = short_task(
        tmp_path,
        before="model.append(torch.nn.Linear(2, 2)); model[2].weight = model[0].weight; "
        "run.drive(model); run.keep(model=model)",
    )
    folder = RunFolder(tmp_path / "run")
    list(folder.run(task_trainer(files), Labels()))
    assert set(load_file(folder.weights)) == {"0.bias", "2.bias", "0.weight"}


@pytest.mark.parametrize("through_folder", [False, True])
def test_a_run_that_is_not_wanted_any_more_is_unwound(through_folder: bool, tmp_path: Path) -> None:
    files = write_task(tmp_path, CATCHES_ALL)
    trainer = task_trainer(files, folder=tmp_path / "notes")
    running = RunFolder(tmp_path / "run").run(trainer, Labels()) if through_folder else trainer.run()
    assert next(running).step == 0
    del running
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["finally"]


def test_several_models_follow_the_schedule_and_its_depth(tmp_path: Path) -> None:
    files = short_task(
        tmp_path,
        before="""two = torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Dropout(0.1))
    run.drive(model), run.drive(two); run.keep(model=model)""",
        step="run.is_due(step) and run.report(val_loss=1, a=two[0].p, b=two[1].p, c=model[1].p)",
    )
    regularizer = Regularizer.from_dict({"schedule": {"kind": "constant", "rate": 0.3}, "depth": {"kind": "rising"}})
    first = next(iter(task_trainer(files, regularizer).run()))
    assert first.metrics == pytest.approx({"a": 0.2, "b": 0.4, "c": 0.4})


def test_one_rate_for_a_run_with_another_depth_or_family_is_refused(tmp_path: Path) -> None:
    constant = {"kind": "constant", "rate": 0.3}
    files = short_task(tmp_path, before="run.keep(model=model)", step="run.dropout_rate")
    assert "run.dropout_rate is one rate" in error_of(
        task_trainer(files, {"schedule": constant, "depth": {"kind": "rising"}})
    )
    family = {"schedule": constant, "family": {"kind": "path"}}
    assert "run.drive: a Driver cannot drive the family" in error_of(task_trainer(short_task(tmp_path), family))


def test_the_task_sees_its_run(tmp_path: Path) -> None:
    before = """assert (run.seed, run.total_steps, str(run.device)) == (1337, 12, 'cpu')
    assert torch.initial_seed() == 1337 and run.generator.initial_seed() == 1337
    assert dict(run.config) == {'width': 3, 'items': 'x'} and run.config.width == run.config['width'] == 3
    assert run.config.get('lr', 5) == getattr(run.config, 'lr', 5) == 5 and not hasattr(run.config, 'lr')
    assert run.schedule.kind == 'linear' and run.dropout_rate == 0.4
    assert not list(run.folder.iterdir()); (run.folder / 'x').touch()
    assert torch.get_num_threads() == 1 and torch.is_grad_enabled()
    run.keep(model=model)"""
    with torch.no_grad():
        assert len(list(task_trainer(short_task(tmp_path, before=before), width=3, items="x").run())) == 4


def test_a_try_out_measures_and_stops(tmp_path: Path) -> None:
    trainer = task_trainer(write_task(tmp_path), order="evaluate first", steps=1000)
    measured = try_out(trainer, 6)
    assert trainer.step == 6
    assert [p.step for p in trainer.history] == [0, 4]
    assert measured.parameter_bytes == 4 * (4 * 16 + 16 + 16 + 1)
    assert measured.checkpoint_bytes > 3 * measured.parameter_bytes  # AdamW has two numbers a parameter
    assert list(measured.sites) == ["1.p"]
    assert measured.seconds_per_step > 0
    assert measured.seconds_per_evaluation > 0
    assert try_out(task_trainer(write_task(tmp_path), order="update first", steps=3), 6).seconds_per_step > 0
