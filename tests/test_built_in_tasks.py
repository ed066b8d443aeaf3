"""Studies of the tasks that the project brings, supernet and sentences, from the search to what is exported."""

import json
import math
from pathlib import Path

import pytest
import torch

from model.size import Size
from study.base.regularizers import parts_of_row
from study.corpus import load_corpus
from study.tasks.data import make_trainer
from study.tasks.supernet import SupernetTrainer
from study.training.evaluation_rows import read_parquet
from study.training.run_folder import RunFolder
from study.training.schedule_file import read_schedule_file
from study.training.sentences_config import SentencesConfig
from study.training.supernet_config import SupernetConfig
from tests.conftest import Study, run
from tests.faults.checks import check_as_never_stopped
from tests.verse_text import verse_text

pytestmark = pytest.mark.slow

TRIALS = 3
CONFIRM = ["--seeds", "2", "--top", "1", "--sweep-seeds", "1"]


@pytest.fixture(scope="module", params=["supernet", "sentences"])
def searched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of the smoke preset, which went on once it had ended."""
    name = str(request.param)
    folder = tmp_path_factory.mktemp(name)
    new = ["--task", name, "--preset", "smoke", "--gpus", "0", "--trials", "2", "--scheduler", "none"]
    if name == "sentences":
        (folder / "verses.txt").write_text(verse_text())
        new += ["--corpus", "verses.txt"]
    done = run(["-m", "study.search", *new, "--name", name], folder)
    assert done.returncode == 0, done.stderr + done.stdout
    done = run(["-m", "study.search", "--task", name, "--name", name, "--resume", "--trials", str(TRIALS)], folder)
    assert done.returncode == 0, done.stderr + done.stdout
    return Study(folder, name, done.stdout)


def metrics(folder: Path) -> list[tuple[int, float, dict[str, float]]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["val_loss"], row["metrics"]) for row in rows]


def test_a_task_is_searched_and_its_numbers_are_in_mlflow(searched: Study) -> None:
    trials = searched.trials()
    assert sorted(trials) == list(range(TRIALS))
    rows_of_table = {
        row["trial"]: row for row in read_parquet(searched.folder / "studies" / searched.name / "trials.parquet")
    }
    rules = set()
    for number, trial in trials.items():
        rows = metrics(searched.folder / "studies" / searched.name / "trials" / f"{number:05d}")
        _, val_loss, more = rows[-1]
        logged = trial.data.metrics
        assert logged["val_loss"] == val_loss
        assert more
        assert more.items() <= logged.items()
        if searched.name == "supernet":
            rule = parts_of_row(rows_of_table[number]).get("size_rule", {"kind": "width"})["kind"]
            rules.add(rule)
            assert trial.data.params.get("size_rule.kind", "width") == rule
            assert math.isclose(val_loss, sum(more.values()) / len(more))
            assert more.keys() == {"val_loss_1x1", "val_loss_0.5x1"}
        else:
            assert val_loss == 1 - more["spearman"]
            assert {"top1", "anisotropy", "tfidf_spearman"} <= more.keys()
        check_as_never_stopped(searched.folder / "studies" / searched.name, number)
    assert rules == ({"width", "same", "largest"} if searched.name == "supernet" else set())


def test_a_task_is_confirmed_and_reported(searched: Study) -> None:
    here = searched.folder
    done = run(["-m", "study.confirm", "--study", searched.name, *CONFIRM], here)
    assert done.returncode == 0, done.stderr + done.stdout
    verdict = json.loads((here / "studies" / searched.name / "confirmation" / "verdict.json").read_text())
    assert {arm["n"] for arm in verdict["arms"]} == {2}
    assert all(arm["test_loss"]["mean"] > 0 for arm in verdict["arms"])
    assert ("nats" in json.dumps(verdict)) == (searched.name == "supernet")
    assert verdict["paper"]["claims"] == []
    assert verdict["published"] is None
    done = run(["-m", "study.report", "--study", searched.name], here)
    assert done.returncode == 0, done.stderr
    page = (here / "studies" / searched.name / "report.html").read_text()
    assert f"Task {searched.name}, preset smoke" in page
    assert ("1 minus the Spearman correlation" in page) == (searched.name == "sentences")
    beside = {"supernet": ("val_loss_0.5x1",), "sentences": ("3-gram TF-IDF", "untrained GPT")}[searched.name]
    assert all(words in page for words in beside)
    folder = here / "studies" / searched.name
    best = min((row["val_loss"], row["step"]) for row in read_parquet(folder / "trials.parquet"))
    assert ("best before its first update" in page) == (best[1] == 0)


def test_the_exported_file_repeats_the_winner(searched: Study) -> None:
    here = searched.folder
    done = run(["-m", "study.export", "--study", searched.name], here)
    assert done.returncode == 0, done.stderr
    file = read_schedule_file(here / "best_schedule.yaml")
    assert isinstance(file.training, SupernetConfig if searched.name == "supernet" else SentencesConfig)
    done = run(["-m", "study.train", "--schedule", "best_schedule.yaml", "--output", "again"], here)
    assert done.returncode == 0, done.stderr
    assert file.provenance is not None
    winner = here / "studies" / searched.name / "trials" / f"{file.provenance['trial']:05d}"
    assert metrics(here / "again") == metrics(winner)


def test_a_size_is_exported_as_a_gpt_with_the_supernets_logits(searched: Study) -> None:
    here = searched.folder
    done = run(["-m", "study.export", "--study", searched.name, "--size", "0.5,1"], here)
    if searched.name != "supernet":
        assert done.returncode == 2
        assert "only --task supernet has sizes to export" in done.stderr
        assert not (here / f"{searched.name}-0.5x1").exists()
        return
    assert done.returncode == 0, done.stderr
    corpus = load_corpus("shakespeare")
    gpt = RunFolder(here / "supernet-0.5x1").load_best(corpus)
    provenance = read_schedule_file(here / "supernet-0.5x1" / "config.yaml").provenance
    assert provenance is not None
    assert (provenance["study"], provenance["supernet_size"]) == ("supernet", "0.5,1")
    winner = here / "studies" / "supernet" / "trials" / f"{provenance['trial']:05d}"
    file = read_schedule_file(winner / "config.yaml")
    assert isinstance(file.training, SupernetConfig)
    trainer = make_trainer(file.training, file.regularizer, corpus, "cpu")
    assert isinstance(trainer, SupernetTrainer)
    trainer.model.load_state_dict(RunFolder(winner).load_best(corpus).state_dict())
    trainer.model.eval().resize(Size.parse("0.5,1"))
    tokens = torch.randint(len(corpus.vocab), (4, file.training.block_size))
    with torch.no_grad():
        assert torch.equal(gpt(tokens, tokens)[0], trainer.model(tokens, tokens)[0])
    wrong = run(["-m", "study.export", "--study", "supernet", "--size", "0.25,1"], here)
    assert wrong.returncode == 2
    assert "size 0.25,1 was not trained: give one of 1,1 or 0.5,1" in wrong.stderr
