"""The task sentences: what its stages train on, what an evaluation measures, and that stopping it changes nothing."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.contrast import info_nce
from model.dropout import set_dropout_rate
from study.base.errors import UserError
from study.corpus import Corpus, build_corpus
from study.engine.memory_check import _times
from study.tasks.score_table import score_table
from study.tasks.sentences import SentencesTrainer
from study.tasks.verses import Verses
from study.training.evaluation_rows import Labels, rows
from study.training.graphed_steps import GraphedSteps
from study.training.run_folder import RunFolder
from study.training.schedule_file import read_schedule_file
from tests.small_training import numbers
from tests.verse_text import SENTENCES_CONFIG as CONFIG
from tests.verse_text import verse_text

EVALUATIONS = [0, 3, 6, 9, 12, 14]
LINEAR = {"kind": "linear", "initial_rate": 0.5, "final_rate": 0.1}
ADAPTIVE = {
    "schedule": {
        "kind": "val_loss", "initial_rate": 0.4, "final_rate": 0.1, "factor": 0.5, "patience": 1, "min_delta": 0.0,
    },
    "family": {"kind": "standout", "alpha": 1.0, "learned": True},
}  # fmt: skip
TEXT = verse_text()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield build_corpus(TEXT)


def trainer(corpus: Corpus, regularizer: dict[str, Any] = LINEAR, **changes: Any) -> SentencesTrainer:
    return SentencesTrainer(replace(CONFIG, **changes), regularizer, corpus)


def same(a: SentencesTrainer, b: SentencesTrainer) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))


def rows_of_updates(run: SentencesTrainer) -> list[Tensor]:
    """Trains to the end; returns the rows of tokens that the model reads in each update."""
    seen: list[Tensor] = []
    run.model.wte.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    run.train_steps(run.config.steps)
    return seen


def texts(run: SentencesTrainer, tokens: Tensor) -> list[str]:
    return [run.verses.corpus.decode(row.tolist()).rstrip("\n") for row in tokens]


def cut_lines() -> list[list[str]]:
    return [[text[: CONFIG.block_size] for text in line.split("\t")[1:]] for line in TEXT.splitlines()]


@pytest.mark.parametrize("changes", [{}, {"chapter_negatives": 3}])
def test_each_stage_reads_its_verses_and_none_of_other_chapters(corpus: Corpus, changes: dict[str, Any]) -> None:
    run = trainer(corpus, **changes)
    lines = cut_lines()
    by_text = [{line[column]: i for i, line in enumerate(lines)} for column in range(3)]
    train = set(run.verses.part("train").tolist())
    updates = rows_of_updates(run)
    assert len(updates) == CONFIG.steps
    for step, tokens in enumerate(updates):
        batch = texts(run, tokens)
        if step < 5:  # a language model does not read the last character, which it is to guess
            assert tokens.shape == (6, 23)
            whole = [[line[0][:23] for line in lines].index(text) for text in batch]
        else:
            assert tokens.shape == ((12 if step < 10 else 18), 24)
            whole = [by_text[0][text] for text in batch[:6]]
        assert set(whole) <= train
        if 5 <= step < 10:
            assert batch[6:] == batch[:6]
        if step >= 10:
            assert [by_text[1][text] for text in batch[6:12]] == whole
            negatives = [by_text[1][text] for text in batch[12:]]
            of_next = [i + 1 if i // 12 == (i + 1) // 12 else i - 11 for i in whole]
            assert negatives == of_next, "the next verse of its chapter, and the first after the last"
        if changes:
            first, second, third = whole[0], whole[1], whole[2]
            chapter = first // 12 * 12
            assert [second, third] == [chapter + (first - chapter + i) % 12 for i in (1, 2)]


def test_the_evaluated_translation_never_trains(corpus: Corpus) -> None:
    run = trainer(corpus)
    kjv, ylt, web = (set(column) for column in zip(*cut_lines(), strict=True))
    seen = {text for tokens in rows_of_updates(run)[5:] for text in texts(run, tokens)}
    assert seen <= kjv | ylt
    assert not seen & (web - kjv - ylt)


def test_two_views_share_a_batch_and_differ_only_in_their_masks(corpus: Corpus) -> None:
    run = trainer(corpus)
    verses = torch.tensor([3, 50, 200, 400, 600, 900])
    rows = run._kjv[verses].long()
    seen: list[Tensor] = []
    handle = run.model.ln_f.register_forward_hook(lambda *call: seen.append(call[2].detach()))
    loss = run.stage_loss("unsupervised", verses)
    handle.remove()
    (hidden,) = seen  # one call
    one, other = hidden.chunk(2)
    assert all(not torch.equal(a, b) for a, b in zip(one, other, strict=True)), "each row has masks of its own"
    assert loss.item() > 0
    set_dropout_rate(run.model, 0.0)
    one, other = run.embed(torch.cat([rows, rows])).chunk(2)
    assert torch.equal(one, other)
    assert torch.equal(run.stage_loss("unsupervised", verses), info_nce(one, one, 0.05))


def test_losses_are_those_of_a_plain_computation(corpus: Corpus) -> None:
    run = trainer(corpus, temperature=0.1)
    set_dropout_rate(run.model, 0.0)
    verses = torch.tensor([0, 13, 26, 300, 301, 700])
    train = run.verses.part("train")
    lines = cut_lines()

    def embedded(index: int, column: int) -> Tensor:
        tokens = torch.tensor([corpus.encode(lines[index][column])])
        return run.model.hidden(tokens)[0].mean(0)

    def matrix(column: int, offset: int = 0) -> Tensor:
        return torch.stack([embedded(int(train[i]) + offset, column) for i in verses.tolist()])

    for hard in (True, False):
        run.config = replace(run.config, hard_negatives=hard)
        expected = info_nce(matrix(0), matrix(1), 0.1, matrix(1, 1) if hard else None)
        assert run.stage_loss("supervised", verses).item() == pytest.approx(expected.item(), rel=1e-4)
    terms = []
    for i in verses.tolist():
        tokens = torch.tensor([*corpus.encode(lines[int(train[i])][0]), run.verses.end])[:24]
        logits = run.model(tokens[None, :-1])[0][0]
        terms.append(F.cross_entropy(logits, tokens[1:], reduction="none"))
    assert run.stage_loss("language", verses).item() == pytest.approx(torch.cat(terms).mean().item(), rel=1e-5)


def test_padding_does_not_change_an_embedding(corpus: Corpus) -> None:
    run = trainer(corpus)
    run.model.eval()
    tokens = corpus.encode("Bad bed.")
    filled = torch.tensor([tokens + [run.verses.end] * n for n in (16, 16)])
    expected = run.model.hidden(torch.tensor([tokens]))[0].mean(0)
    torch.testing.assert_close(run.embed(filled)[0], expected)


def test_an_evaluation_is_that_of_verse_similarity(corpus: Corpus) -> None:
    run = trainer(corpus)
    list(run.run())
    test, _ = run._tests["development"]
    scores = test.scores(run._embed_all(test.rows))
    run.model.eval()
    one_by_one = torch.cat([run.embed(torch.from_numpy(row[None]).long()) for row in test.rows]).detach()
    assert test.scores(one_by_one) == pytest.approx(scores, abs=1e-3)
    last = run.history[-1]
    assert last.val_loss == 1 - scores["spearman"]
    tf_idf = {name: value for name, value in last.metrics.items() if name.startswith("tfidf_")}
    assert last.metrics == scores | tf_idf
    assert all(p.metrics | tf_idf == p.metrics for p in run.history), "the same lexical baseline in all evaluations"
    assert tf_idf["tfidf_spearman"] > 0.5
    q, k = (F.normalize(one_by_one[index]) for index in (test.queries, test.keys))
    assert len(q) == 144, "all verses of the part, since there are fewer than 500"
    assert scores["top1"] == pytest.approx(np.mean([int((k @ row).argmax()) == i for i, row in enumerate(q)]), abs=0.01)


def test_development_and_test_have_other_verses(corpus: Corpus) -> None:
    run = trainer(corpus)
    development, _ = run.measure()
    measured, _ = run.measure("test")
    assert development != measured
    texts_of = [set(texts(run, torch.from_numpy(run._tests[part][0].rows))) for part in ("development", "test")]
    assert not texts_of[0] & texts_of[1]


def test_evaluations_leave_the_random_streams_alone(corpus: Corpus) -> None:
    with_evaluations = trainer(corpus)
    list(with_evaluations.run())
    without = trainer(corpus)
    without.train_steps(CONFIG.steps)
    assert same(with_evaluations, without)


def test_data_order_depends_on_the_seed_alone(corpus: Corpus) -> None:
    first = rows_of_updates(trainer(corpus))
    again = rows_of_updates(trainer(corpus, ADAPTIVE, n_embd=32))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], rows_of_updates(trainer(corpus, seed=8))[0])


@pytest.fixture
def checkpoint_at_every_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.training.run_folder.CHECKPOINT_SHARE", math.inf)


@pytest.mark.usefixtures("checkpoint_at_every_evaluation")
@pytest.mark.parametrize("regularizer", [LINEAR, ADAPTIVE], ids=["linear", "adaptive"])
def test_resumed_run_is_bit_identical_in_any_stage(corpus: Corpus, tmp_path: Path, regularizer: dict[str, Any]) -> None:
    whole = trainer(corpus, regularizer)
    expected = list(whole.run())
    assert [p.step for p in expected] == EVALUATIONS
    for stop in range(1, len(EVALUATIONS)):
        folder = RunFolder(tmp_path / str(stop))
        run = folder.run(trainer(corpus, regularizer), Labels())
        before = [next(run) for _ in range(stop)]
        run.close()  # as if the process was killed
        torch.manual_seed(0)
        resumed = trainer(corpus, regularizer)
        after = list(RunFolder(tmp_path / str(stop)).run(resumed, Labels()))
        assert numbers(before + after[1:]) == numbers(expected)
        assert same(resumed, whole)


def test_a_runs_folder_keeps_its_config_and_its_best_model(corpus: Corpus, tmp_path: Path) -> None:
    run = trainer(corpus, ADAPTIVE)
    folder = RunFolder(tmp_path)
    weights = {p.step: copy.deepcopy(run.model.state_dict()) for p in folder.run(run, Labels())}
    assert read_schedule_file(folder.config).training == CONFIG
    best, expected = folder.load_best(corpus).state_dict(), weights[run.history[-1].best_step]
    assert all(torch.equal(best[name], value) for name, value in expected.items())


def test_steps_as_graphs_are_the_same(corpus: Corpus) -> None:
    plain = trainer(corpus)
    expected = numbers(list(plain.run()))
    graphed = trainer(corpus)
    graphed.graphed = GraphedSteps(graphed)
    assert numbers(list(graphed.run())) == expected
    assert same(plain, graphed)


def test_the_price_of_a_trial_is_that_of_its_own_stages_alone(corpus: Corpus) -> None:
    """However few steps a stage has: those of the next one cost more."""
    run = trainer(corpus, steps=4, language_steps=2, unsupervised_steps=1, supervised_steps=1)
    seen: list[int] = []
    run.model.wte.register_forward_pre_hook(
        lambda _, inputs: seen.append(len(inputs[0])) if run.model.training else None
    )
    per_step, per_evaluation = _times(run, 8)
    assert seen == [6] * 4 + [12] * 2 + [18] * 2  # once to warm up, once to measure
    assert min(per_step, per_evaluation) > 0


def test_each_stage_learns(corpus: Corpus) -> None:
    changes = {"n_embd": 32, "batch_size": 16, "eval_interval": 40, "warmup_steps": 10}
    steps = {"steps": 200, "language_steps": 40, "unsupervised_steps": 40, "supervised_steps": 120}
    run = trainer(corpus, {"kind": "constant", "rate": 0.2}, **changes, **steps)
    first, language, unsupervised, supervised, _, last = list(run.run())
    losses = [p.train_loss for p in (first, language, supervised, last) if p.train_loss is not None]
    assert losses[1] < 0.8 * losses[0]
    assert losses[3] < 0.9 * losses[2]
    assert unsupervised.metrics["anisotropy"] < language.metrics["anisotropy"] - 0.1
    assert last.metrics["spearman"] > unsupervised.metrics["spearman"]


def test_the_table_always_has_tf_idf_and_the_untrained_model(corpus: Corpus) -> None:
    runs = {"a": trainer(corpus), "b": trainer(corpus, ADAPTIVE)}
    for run in runs.values():
        list(run.run())
    table = score_table({name: rows(run, Labels()) for name, run in runs.items()})
    assert [row[0] for row in table] == ["", "3-gram TF-IDF", "untrained GPT", "a", "b"]
    assert {len(row) for row in table} == {7}
    metrics = runs["a"].history[0].metrics
    assert table[1][1:4] == [f"{metrics[f'tfidf_{name}']:.3f}" for name in ("spearman", "matched_spearman", "top1")]
    assert table[1][4:] == ["", "", ""]
    assert table[2][1] == f"{1 - runs['a'].history[0].val_loss:.3f}"
    assert table[3][1] == f"{1 - runs['a'].history[-1].best_val_loss:.3f}"


def test_too_small_a_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    small = build_corpus(verse_text(books=1, chapters=1, verses=4))
    with pytest.raises(UserError, match="training chapters have 0 verses of use, and a batch needs 6"):
        trainer(small)
    few = build_corpus(verse_text(books=1, chapters=20))
    with pytest.raises(UserError, match="development chapters have 0 verses with a partner of each grade"):
        trainer(few).measure()


def test_verses_know_their_corpus(corpus: Corpus) -> None:
    assert Verses.of(corpus).corpus.sha256 == corpus.sha256
