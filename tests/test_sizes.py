"""The sizes of supernets beside sizes trained alone: what is compared, and the figure."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from model.regularizer import Regularizer
from model.size import Size
from study.base.errors import UserError
from study.confirm import sizes_figure
from study.confirm.compared_runs import read_runs
from study.confirm.from_folders import judge_runs
from study.confirm.options import RunsOptions
from study.confirm.sizes import by_label, compare_sizes, sizes_alone, supernet_sizes
from study.corpus import Corpus
from study.tasks.data import make_trainer
from study.training.config import TrainingConfig
from study.training.evaluation_rows import Labels
from study.training.run_folder import RunFolder
from study.training.supernet_config import SupernetConfig, subnet_training
from tests.small_supernet import CONFIG, words_corpus

BASE = replace(CONFIG, steps=20)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with words_corpus(tmp_path_factory.mktemp("cache")) as corpus:
        yield corpus


@pytest.fixture
def train(corpus: Corpus, tmp_path: Path) -> Callable[..., Path]:
    """Trains a run into a folder."""

    def made(name: str, config: TrainingConfig, rate: float, **more: Any) -> Path:
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir(parents=True)
        d = {"schedule": {"kind": "constant", "rate": rate}} | more
        for _ in folder.run(make_trainer(config, Regularizer.from_dict(d), corpus, "cpu"), Labels()):
            pass
        folder.finish()
        return folder.path

    return made


def test_each_size_stands_beside_the_same_size_alone(train: Callable[..., Path], tmp_path: Path) -> None:
    half, rule = Size.parse("0.5,2"), {"size_rule": {"kind": "same"}}
    for seed in (1, 2):
        train(f"super/{seed}", replace(BASE, seed=seed), 0.2)
        train(f"same/{seed}", replace(BASE, seed=seed), 0.2, **rule)
        for rate in (0.0, 0.4):
            train(f"alone/{rate}/{seed}", replace(subnet_training(BASE, half), seed=seed), rate)
    series = supernet_sizes(read_runs([tmp_path / "super", tmp_path / "same"]))
    kinds = by_label(series)
    assert set(kinds) == {"constant 0.2, rates by width", "constant 0.2, same rate for all sizes"}
    alone = sizes_alone(read_runs([tmp_path / "alone"]))
    means = {
        rate: [min(row["val_loss"] for row in RunFolder(tmp_path / "alone" / rate / s).rows()) for s in "12"]
        for rate in ("0.0", "0.4")
    }
    best = min(means.values(), key=sum)
    (one,) = alone
    assert list(one.losses.values()) == best, "of several rates the best one counts"
    (found,) = compare_sizes(kinds["constant 0.2, rates by width"], alone)
    rows = [min(RunFolder(tmp_path / "super" / s).rows(), key=lambda row: row["val_loss"]) for s in "12"]
    expected = [row["metrics"][f"val_loss_{half.name}"] for row in rows]
    assert list(found.supernet.losses.values()) == expected
    assert found.found.difference.mean == pytest.approx(sum(expected) / 2 - sum(best) / 2)
    assert found.supernet.parameters == one.parameters


def test_the_command_draws_them(train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("super/1", BASE, 0.2)
    train("alone/1", subnet_training(BASE, Size.parse("0.5,2")), 0.2)
    figure = tmp_path / "sizes.svg"
    roots = ["--supernet", str(tmp_path / "super"), "--alone", str(tmp_path / "alone"), "--output", str(figure)]
    assert sizes_figure.main(roots) == 0
    assert "0.5,2" in capsys.readouterr().out
    assert "each size alone, constant 0.2" in figure.read_text()
    for wrong, named in (("alone", "give it as --alone"), ("super", "give it as --supernet")):
        other = {"alone": ["--supernet", str(tmp_path / "alone")], "super": ["--alone", str(tmp_path / "super")]}[wrong]
        with pytest.raises(UserError, match=named):
            sizes_figure.main([*roots, *other])


def test_supernets_are_judged_and_not_together_with_single_sizes(
    train: Callable[..., Path], corpus: Corpus, tmp_path: Path
) -> None:
    text = tmp_path / "words.txt"
    text.write_text(corpus.decode(corpus.tokens.tolist()))
    for seed in (1, 2):
        for rate in (0.0, 0.2):
            train(f"super/{rate}/{seed}", replace(BASE, seed=seed), rate)
    alone = train("alone", subnet_training(BASE, Size.parse("0.5,2")), 0.2)
    supers, options = tmp_path / "super", RunsOptions(output=str(tmp_path / "verdict"), corpus=str(text))
    assert judge_runs([supers], options, Console(file=io.StringIO())) == 0
    verdict = json.loads((tmp_path / "verdict" / "verdict.json").read_text())
    assert {arm["n"] for arm in verdict["arms"]} == {2}
    assert (verdict["paper"]["claims"], verdict["published"]) == ([], None)
    for paths in ([supers, alone], [alone, supers]):
        with pytest.raises(UserError, match="differ in "):
            judge_runs(paths, options, Console(file=io.StringIO()))


def test_a_run_that_has_not_ended_does_not_count(train: Callable[..., Path], tmp_path: Path) -> None:
    assert isinstance(BASE, SupernetConfig)
    folder = train("super/1", BASE, 0.2)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {"outcome": None} for line in lines[:-1]]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="no run has reached its end"):
        supernet_sizes(read_runs([folder]))
