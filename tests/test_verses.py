"""Verses, their parts, graded pairs, and the lexical baseline, each against an independent reference."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer

from study.base.errors import UserError
from study.corpus import Corpus, build_corpus
from study.tasks.lexical import tf_idf
from study.tasks.verse_pairs import GRADES, NEAREST, Pairs, graded_pairs, matched_pairs
from study.tasks.verse_scores import spearman
from study.tasks.verses import Part, Verses
from tests.verse_text import verse_text

TEXT = verse_text()
LINES = [line.split("\t") for line in TEXT.splitlines()]
LENGTH = 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield build_corpus(TEXT)


@pytest.fixture(scope="module")
def verses(corpus: Corpus) -> Verses:
    return Verses.of(corpus)


def text_of(verses: Verses, row: np.ndarray) -> str:
    return verses.corpus.decode(row.tolist())


def test_rows_hold_the_verses_cut_or_filled_up(verses: Verses) -> None:
    assert verses.numbers.tolist() == [int(line[0]) for line in LINES]
    chosen = np.array([3, 0, 777])
    for column, name in enumerate(("kjv", "ylt", "web"), start=1):
        expected = [LINES[i][column][:LENGTH].ljust(LENGTH, "\n") for i in chosen]
        assert [text_of(verses, row) for row in verses.rows(name, chosen, LENGTH)] == expected


def test_parts_are_whole_chapters_and_a_tenth_each(verses: Verses) -> None:
    parts: tuple[Part, ...] = ("train", "development", "test")
    found = {name: verses.part(name) for name in parts}
    assert sorted(np.concatenate(list(found.values()))) == list(range(len(LINES)))
    chapters = {name: {LINES[i][0][:-3] for i in part} for name, part in found.items()}
    assert sum(map(len, chapters.values())) == 120, "no chapter is in two parts"
    assert {name: len(of) for name, of in chapters.items()} == {"train": 96, "development": 12, "test": 12}


@pytest.mark.parametrize(
    "text",
    [
        "no verses at all", "1\ta\tb\tc", "1\ta\tb\n", "1\ta\tb\tc\td\n", "x\ta\tb\tc\n", "1\ta\t\tc\n", "\ta\tb\tc\n",
        "2\ta\tb\tc\n1\ta\tb\tc\n", "1\ta\tb\tc\n1\ta\tb\tc\n", "1\ta\tb\tc\n\n\n\n\n", "1\ta\tb\tc\nend",
    ],
)  # fmt: skip
def test_a_corpus_of_another_form_is_refused(text: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="needs a corpus of verses"):
        Verses.of(build_corpus(text))


def places(i: int) -> tuple[int, int, int]:
    number = int(LINES[i][0])
    return number // 10**6, number // 1000 % 1000, number % 1000


def is_of_grade(kjv: int, web: int, grade: int) -> bool:
    (book, chapter, verse), (other_book, other_chapter, other_verse) = places(kjv), places(web)
    same_chapter = (book, chapter) == (other_book, other_chapter)
    return {
        4: kjv == web,
        3: same_chapter and other_verse == verse + 1,
        2: same_chapter and abs(other_verse - verse) >= NEAREST,
        1: book == other_book and chapter != other_chapter,
        0: abs(book - other_book) >= 2,  # a third of six
    }[grade]


def overlap(kjv: int, web: int) -> float:
    a, b = ({w.strip(".") for w in LINES[i][c][:LENGTH].lower().split()} for i, c in ((kjv, 1), (web, 3)))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("part", ["development", "test"])
@pytest.mark.parametrize("is_matched", [False, True])
def test_pairs_have_their_grade_and_come_from_their_part(verses: Verses, part: Part, is_matched: bool) -> None:
    pairs = matched_pairs(verses, part, 30, LENGTH) if is_matched else graded_pairs(verses, part, 30)
    assert {*pairs.kjv, *pairs.web} <= set(verses.part(part))
    found = list(zip(pairs.kjv, pairs.web, pairs.grade, strict=True))
    assert len(set(found)) == len(found)
    assert all(is_of_grade(*pair) for pair in found)
    counts = np.bincount(pairs.grade)
    assert len(counts) == len(GRADES)
    assert set(counts) == ({30} if not is_matched else {counts[0]})
    assert 10 <= counts[0] <= 30


def test_graded_pairs_compare_each_verse_with_a_partner_of_each_grade(verses: Verses) -> None:
    pairs = graded_pairs(verses, "development", 20)
    for i in range(0, 100, 5):
        assert len({*pairs.kjv[i : i + 5]}) == 1
        assert pairs.grade[i : i + 5].tolist() == list(GRADES)


def test_matched_pairs_have_the_same_overlaps_in_all_grades(verses: Verses) -> None:
    def means(pairs: Pairs) -> list[float]:
        overlaps = np.array([overlap(a, b) for a, b in zip(pairs.kjv, pairs.web, strict=True)])
        return [overlaps[pairs.grade == grade].mean() for grade in GRADES]

    graded = means(graded_pairs(verses, "development", 30))
    matched = means(matched_pairs(verses, "development", 30, LENGTH))
    assert max(graded) - min(graded) > 0.2
    assert max(matched) - min(matched) < 0.005


def test_pairs_are_always_the_same(verses: Verses) -> None:
    for make in (lambda: graded_pairs(verses, "test", 9), lambda: matched_pairs(verses, "test", 9, LENGTH)):
        one, other = make(), make()
        assert all((a == b).all() for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def test_too_many_pairs_are_refused(verses: Verses) -> None:
    with pytest.raises(UserError, match=r"development chapters have \d+ verses with a partner of each grade"):
        graded_pairs(verses, "development", 145)


def test_tf_idf_is_that_of_scikit_learn(verses: Verses) -> None:
    documents = [LINES[i][1][:LENGTH] for i in range(200)]
    theirs = TfidfVectorizer(analyzer="char", ngram_range=(3, 3)).fit(documents).transform(documents[50:90])
    rows = verses.rows("kjv", np.arange(200), LENGTH)
    ours = tf_idf(rows[50:90], rows, verses.corpus.vocab, verses.end)
    np.testing.assert_allclose(ours @ ours.T, (theirs @ theirs.T).toarray(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("ties", [3, 1000])
def test_spearman_is_that_of_scipy(ties: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(ties, size=(2, 200))
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman(a, a) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert np.isnan(spearman(a, np.ones(200)))
