"""The example tasks, the example of --task-help, and a training loop before and after it became a task."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

import difflib
from contextlib import closing
from pathlib import Path

import pytest

from study.tasks.help import EXAMPLE, HELP
from study.tasks.task_files import read_task_files
from study.tasks.try_out import try_out
from tests.clean_environment import ROOT
from tests.own_tasks import FALLING, STEERED, numbers, task_trainer, write_task

pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLES = ROOT / "study" / "tasks" / "examples"
LOOP = ROOT / "tests" / "data" / "nanogpt_loop"
SITES = {
    "mlp": {"2.p", "5.p"},
    "digits": {"channel_dropout.p", "dropout.p"},
    "gpt2_plays": {
        "transformer.drop.p",
        *(
            f"transformer.h.{block}.{name}.p"
            for block in (0, 1)
            for name in ("attn.attn_dropout", "attn.resid_dropout", "mlp.dropout")
        ),
    },
}
HELP_PARTS = """\
import torch


class MyModel(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(2, 2), torch.nn.Dropout(0.2))


def next_batch(generator):
    return torch.rand(4, 2, generator=generator)


def update(model, optimizer, batch):
    loss = model(batch).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def validate(model):
    return model.eval()(torch.ones(4, 2)).square().mean()


"""


@pytest.mark.parametrize("name", SITES)
def test_an_example_trains_and_can_be_continued(name: str) -> None:
    files = read_task_files(f"{EXAMPLES / name}.py:train")
    assert len(files.contents[f"{name}.py"].splitlines()) < 60
    expected = list(task_trainer(files, STEERED, steps=9, eval_interval=3).run())
    assert [p.step for p in expected] == [0, 3, 6, 9]
    assert expected[-1].val_loss < expected[0].val_loss
    stopped = task_trainer(files, STEERED, steps=9, eval_interval=3)
    with closing(stopped.run()) as evaluations:
        next(evaluations), next(evaluations)
        state = stopped.state_dict()
        continued = task_trainer(files, STEERED, steps=9, eval_interval=3)
        continued.load_state_dict(state)
        assert numbers(list(continued.run())) == numbers(expected[2:])
    measured = try_out(task_trainer(files, FALLING, steps=9), 1)
    assert measured.sites == dict.fromkeys(SITES[name], 0.4)


def test_the_examples_on_disk_are_those_that_are_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"__init__", *SITES}


def test_a_training_loop_becomes_a_task_with_at_most_12_changed_lines() -> None:
    before, after = ((LOOP / name).read_text().splitlines() for name in ("before.py", "after.py"))
    changed = [
        max(end - start, new_end - new_start)
        for kind, start, end, new_start, new_end in difflib.SequenceMatcher(None, before, after, False).get_opcodes()
        if kind != "equal"
    ]
    assert sum(changed) <= 12
    assert 50 <= sum(bool(line.strip()) for line in before) <= 70


def test_that_loop_trains_and_can_be_continued_though_it_evaluates_first() -> None:
    files = read_task_files(f"{LOOP / 'after.py'}:train")
    expected = list(task_trainer(files, STEERED, steps=12).run())
    assert [p.step for p in expected] == [0, 4, 8, 12]
    assert expected[-1].val_loss < expected[0].val_loss
    stopped = task_trainer(files, STEERED, steps=12)
    with closing(stopped.run()) as evaluations:
        next(evaluations), next(evaluations)
        continued = task_trainer(files, STEERED, steps=12)
        continued.load_state_dict(stopped.state_dict())
        assert numbers(list(continued.run())) == numbers(expected[2:])


def test_the_example_of_the_help_runs(tmp_path: Path) -> None:
    assert EXAMPLE in HELP
    assert len(EXAMPLE.splitlines()) <= 10
    trainer = task_trainer(write_task(tmp_path, HELP_PARTS + EXAMPLE), lr=0.1)
    assert [p.step for p in trainer.run()] == [0, 4, 8, 12]
