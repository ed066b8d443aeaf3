"""The tasks that the project brings on the command lines of study.search, study.train and study.export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from study import export, train
from study.base.errors import UserError, exit_status
from study.search.new_study import preset_training
from study.search.options import SearchOptions
from study.training.built_in import BUILT_IN, loss_sentence, task_name, unit_of
from study.training.schedule_file import read_schedule_file
from study.training.sentences_config import SentencesConfig
from study.training.supernet_config import SupernetConfig
from tests.verse_text import verse_text

SCHEDULE = "format: dynamic-dropout-schedule/1\nschedule: {kind: constant, rate: 0.2}\n"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs study.train as the shell does; returns its exit status and the lines of its stderr."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    Path("verses.txt").write_text(verse_text())
    Path("constant.yaml").write_text(SCHEDULE)

    def run(*argv: str) -> tuple[int, list[str]]:
        status = exit_status(lambda: train.main(["--schedule", "constant.yaml", *argv]))
        return status, capfd.readouterr().err.splitlines()

    return run


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_task_brings_its_space_corpus_and_presets(name: str) -> None:
    options = SearchOptions(task=name)
    task = BUILT_IN[name]
    assert (options.chosen_space, options.chosen_corpus, options.own_task) == (task.space, task.corpus, None)
    for preset in task.presets:
        training = preset_training(SearchOptions(task=name, preset=preset, steps=40, seed=3), preset)
        assert (task_name(training), training.steps, training.seed) == (name, 40, 3)
        assert (unit_of(training), loss_sentence(training)) == (task.unit, task.val_loss)
    assert SearchOptions(task=name, space="families", corpus="a.txt").chosen_space == "families"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"task": "superet"}, "--task superet is none of language, supernet, sentences, and no FILE.py:FUNCTION"),
        (
            {"task": "sentences", "preset": "shakespeare_char"},
            "none of --task sentences: give one of smoke, laptop",
        ),
        ({"preset": "gpu"}, "--preset gpu is none of --task language: give one of smoke, laptop, shakespeare_char"),
        ({"space": "supernet"}, "--space supernet is of --task supernet"),
        ({"task": "supernet", "set": ("a=1",)}, "--set needs --task FILE.py:FUNCTION"),
        ({"task": "a.py:f", "steps": 3, "preset": "smoke"}, "--preset is for the project's tasks, and --task a.py:f"),
    ],
)
def test_a_mistake_is_said_in_one_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        SearchOptions(**options)
    assert says in str(error.value)


def test_train_takes_a_task_with_its_preset_and_fields(command: Callable[..., Any]) -> None:
    argv = ("--preset", "smoke", "--steps", "20")
    status, err = command("--task", "supernet", *argv, "--corpus", "text.txt", "--distillation", "0", "--output", "a")
    assert status == 0, err
    config = read_schedule_file(Path("a", "config.yaml")).training
    assert isinstance(config, SupernetConfig)
    assert (config.steps, config.distillation) == (20, 0)
    status, err = command("--task", "sentences", *argv, "--corpus", "verses.txt", "--output", "b")
    assert status == 0, err
    config = read_schedule_file(Path("b", "config.yaml")).training
    assert isinstance(config, SentencesConfig)
    assert (config.language_steps, config.unsupervised_steps, config.supervised_steps) == (10, 5, 5)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--task", "supernet"), "no training config of the task supernet: give --preset, one of smoke, laptop"),
        (("--task", "sentences", "--preset", "shakespeare_char"), "--preset shakespeare_char is none of the task sent"),
        (("--preset", "smoke", "--distillation", "0"), "--distillation is not of the task language: leave it out"),
        (
            ("--task", "supernet", "--preset", "smoke", "--temperature", "1"),
            "--temperature is not of the task",
        ),
        (
            ("--task", "sentences", "--preset", "smoke", "--language-steps", "1"),
            "the stages must have 60 steps",
        ),
        (("--task", "sentences", "--preset", "smoke", "--corpus", "text.txt"), "needs a corpus of verses, a line each"),
    ],
)
def test_a_mistake_in_training_is_said_in_one_line(command: Callable[..., Any], argv: tuple[str], says: str) -> None:
    status, err = command(*argv, "--output", "out")
    assert (status, len(err)) == (2, 1)
    assert says in err[0]
    assert not Path("out").exists()


def test_a_size_that_is_none_is_said_in_one_line() -> None:
    with pytest.raises(UserError, match=r"a size must be WIDTH,DEPTH, as in 0\.5,2 or 1/3,2, got 'half'"):
        export.main(["--study", "x", "--size", "half"])
