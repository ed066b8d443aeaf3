"""Mistakes in the user's own task are said in one line."""

from pathlib import Path

import pytest

from study.base.errors import DivergenceError
from tests.own_tasks import error_of, short_task, task_trainer

pytestmark = pytest.mark.usefixtures("one_thread", "own_cache", "no_threads_left")


def test_an_error_of_the_task_comes_with_its_traceback(tmp_path: Path) -> None:
    files = short_task(tmp_path, step="run.is_due(step) and run.report(val_loss=1.0); step == 6 and 1 / 0")
    trainer = task_trainer(files)
    with pytest.raises(ZeroDivisionError) as raised:
        list(trainer.run())
    assert raised.traceback[-1].path.name == "my_task.py"
    assert raised.traceback[-1].lineno == 7
    assert [p.step for p in trainer.history] == [0, 4]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ({"before": "run.drive(model)"}, "the task keeps nothing"),
        ({"before": "run.keep(model=model)"}, "nothing in the task follows the schedule"),
        ({"before": "run.keep(model=model); run.drive(model[0])"}, "run.drive: Linear has no dropout to drive"),
        ({"before": "run.drive('gpt')"}, "run.drive needs a torch.nn.Module, got 'gpt'"),
        ({"before": "run.drive(model, only='(')"}, "only must be a regular expression"),
        ({"before": "run.keep(x=3)"}, "run.keep(x=...) cannot keep a int"),
        ({"before": "run.keep(model=torch.Generator())"}, "run.keep(model=...) must be a torch.nn.Module"),
        ({"before": "run.keep(a=model); run.keep(a=model)"}, "run.keep(a=...) was called before"),
        ({"before": "run.report(val_loss=1)"}, "outside the loop over run.steps()"),
        ({"before": "run.config.width"}, "needs the setting width (given: none): give --set width=VALUE"),
        ({"before": "run.config['width']"}, "give --set width=VALUE"),
        ({"before": "import sys; sys.exit(3)"}, "my_task.py:train called sys.exit(3)"),
        ({"before": "return"}, "my_task.py:train returned after 0 of 12 steps"),
        ({"step": "run.report(val_loss=1); break"}, "returned after 0 of 12 steps"),
        ({"step": "run.report(val_loss=1); run.report(val_loss=1)"}, "called twice in step 0"),
        ({"step": "run.report(val_loss=1)"}, "called in step 1, where none is due"),
        ({"step": "step != 3 and run.is_due(step) and run.report(val_loss=1)"}, "due in step 3, and the task did not"),
        ({"step": "pass"}, "due in step 0, and the task did not report it"),
        ({"step": "run.keep(late=model)"}, "run.keep(...) was called after run.steps() had begun"),
        ({"step": "run.drive(model)"}, "run.drive(model) was called after run.steps() had begun"),
        ({"step": "list(run.steps())"}, "run.steps() was called a second time"),
        ({"step": "run.is_due('0')"}, "run.is_due: step must be a whole number"),
        ({"step": "run.report(val_loss='1')"}, "val_loss must be a number, got '1'"),
        ({"step": "run.report(val_loss=torch.ones(2))"}, "val_loss must be a number, got tensor([1., 1.])"),
        ({"step": "run.report(val_loss=1, ok=True)"}, "ok must be a number, got True"),
        ({"step": "run.report(val_loss=1, f1=float('nan'))"}, "f1 is nan at step 0: give a number, or leave it out"),
        ({"step": "run.report(val_loss=1, **{'a#b': 1})"}, "MLflow takes no metric of the name 'a#b'"),
        ({"step": "run.report(val_loss=1, **{'a//b': 1})"}, "MLflow takes no metric of the name 'a//b'"),
        ({"step": "run.report(val_loss=1, best_val_loss=1)"}, "best_val_loss has a meaning of its own"),
        ({"step": "run.report(val_loss=1, test_loss=1)"}, "test_loss has a meaning of its own"),
    ],
)
def test_a_mistake_of_the_task_is_said_in_one_line(lines: dict[str, str], says: str, tmp_path: Path) -> None:
    assert says in error_of(task_trainer(short_task(tmp_path, **lines)))


@pytest.mark.parametrize(
    ("report", "says"),
    [
        ("val_loss=None", "val_loss is None at step 0"),
        ("val_loss=float('inf')", "val_loss is inf at step 0"),
        ("val_loss=torch.tensor(float('nan'))", "val_loss is nan at step 0"),
        ("val_loss=1, train_loss=float('nan')", "train_loss is nan at step 0"),
    ],
)
def test_a_loss_that_is_no_number_has_diverged(report: str, says: str, tmp_path: Path) -> None:
    assert error_of(task_trainer(short_task(tmp_path, step=f"run.report({report})")), DivergenceError) == says
