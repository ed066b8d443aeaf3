"""What a checkpoint of the user's own task holds, and refuses to hold."""

import random
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from study.tasks import kept_objects
from tests.own_tasks import error_of, short_task, task_trainer

pytestmark = pytest.mark.usefixtures("one_thread", "own_cache", "no_threads_left")


def test_a_state_that_a_checkpoint_cannot_hold_is_refused_with_its_name(tmp_path: Path) -> None:
    before = """run.drive(model)
    class Counter:
        def state_dict(self):
            return {"seen": [object()]}
        def load_state_dict(self, state):
            pass
    run.keep(model=model, counter=Counter())"""
    assert "run.keep(counter=...): its state_dict() has a object" in error_of(
        task_trainer(short_task(tmp_path, before=before))
    )


def test_other_kept_objects_than_before_are_refused(tmp_path: Path) -> None:
    def state() -> Any:
        trainer = task_trainer(short_task(tmp_path / "a", before="run.drive(model); run.keep(model=model, net=model)"))
        with closing(trainer.run()) as evaluations:
            next(evaluations)
            return trainer.state_dict()

    kept = state()
    for name, before, says in (
        ("b", "run.keep(model=model)", "the checkpoint has net, and the task did not call run.keep with it"),
        ("c", "run.keep(other=model)", "run.keep(other=...): the checkpoint has no such object, but model, net"),
    ):
        continued = task_trainer(short_task(tmp_path / name, before=f"run.drive(model); {before}"))
        continued.load_state_dict(kept)
        assert says in error_of(continued)


@pytest.mark.parametrize("kind", ["PCG64", "MT19937", "Philox", "SFC64"])
def test_every_generator_is_kept(kind: str, tmp_path: Path) -> None:
    def make() -> dict[str, Any]:
        return {
            "numpy": np.random.Generator(getattr(np.random, kind)(1)),
            "torch": torch.Generator().manual_seed(1),
            "python": random.Random(1),
        }

    def draw(made: dict[str, Any]) -> tuple[float, ...]:
        return made["numpy"].normal(), torch.rand(1, generator=made["torch"]).item(), made["python"].gauss()

    made = make()
    draw(made)
    kept = kept_objects.KeptObjects()
    for name, generator in made.items():
        kept.add(name, generator)
    torch.save(kept.states(), tmp_path / "states")
    expected = draw(made)
    continued = kept_objects.KeptObjects(torch.load(tmp_path / "states", weights_only=True))
    made = make()
    for name, generator in made.items():
        continued.add(name, generator)
    assert draw(made) == expected


def test_numpy_numbers_in_a_state_are_kept_as_numbers(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=np.float64(0.5))
    kept = kept_objects.KeptObjects()
    kept.add("optimizer", optimizer)
    torch.save(kept.states(), tmp_path / "states")
    assert torch.load(tmp_path / "states", weights_only=True)["optimizer"]["param_groups"][0]["lr"] == 0.5
