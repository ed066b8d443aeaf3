"""Pairs of verses whose grade says how much they have in common: known from where they stand, not from human scores."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from study.base.errors import UserError
from study.tasks.verses import Part, Verses

GRADES = (0, 1, 2, 3, 4)
"""Verses of far books; of one book; of one chapter; neighbours; one verse. A KJV verse and a WEB verse each."""
NEAREST = 5
"""Verses of one chapter, grade 2, are at least so many verses apart."""
_FAR = 3
"""Far books are at least a third of all books apart."""
_BIN = 0.01
_SEED = 17


@dataclass(frozen=True, eq=False)
class Pairs:
    """Graded pairs: verse `kjv[i]` in the KJV, verse `web[i]` in the WEB, indices into the verses; (n,) each."""

    kjv: np.ndarray
    web: np.ndarray
    grade: np.ndarray


def graded_pairs(verses: Verses, part: Part, per_grade: int) -> Pairs:
    """Returns `per_grade` pairs of each grade: one of each grade for each KJV verse, always the same ones.

    Raises:
        UserError: if the part has not so many verses that have a partner of each grade.
    """
    rng = np.random.default_rng(_SEED)
    pool = rng.permutation(verses.part(part))
    partners: list[list[int]] = []
    anchors: list[int] = []
    for anchor in pool:
        candidates = [np.flatnonzero(of_grade) for of_grade in _candidates(verses, pool, anchor)]
        if all(len(found) for found in candidates):
            anchors.append(anchor)
            partners.append([pool[rng.choice(found)] for found in candidates])
        if len(anchors) == per_grade:
            web = np.array(partners)  # (per_grade, grades)
            grade = np.broadcast_to(GRADES, web.shape)
            return Pairs(np.repeat(anchors, len(GRADES)), web.ravel(), grade.ravel().copy())
    raise UserError(
        f"the {part} chapters have {len(anchors)} verses with a partner of each grade, and the evaluation needs "
        f"{per_grade}: give a smaller --pairs-per-grade, or a longer text"
    )


def matched_pairs(verses: Verses, part: Part, per_grade: int, length: int) -> Pairs:
    """Returns pairs whose lexical overlap says nothing about their grade: its mean is the same in all grades.

    The overlap is the Jaccard index of the two verses' words among their first `length` characters. Each grade has as
    many pairs as the others in each interval of overlap, 0.01 wide, so far as the grade that is rarest there reaches.

    Args:
        per_grade: at most so many pairs of each grade.

    Raises:
        UserError: if there are fewer than two of each grade.
    """
    rng = np.random.default_rng(_SEED)
    pool = verses.part(part)
    places = (_overlaps(verses, pool, length) / _BIN).astype(np.int16)
    of_grade = np.stack([_candidates(verses, pool, anchor) for anchor in pool], axis=1)  # (grades, anchors, others)
    counts = np.stack([np.bincount(places[mask], minlength=int(1 / _BIN) + 1) for mask in of_grade])
    room = counts.min(0)
    share = min(1.0, per_grade / max(1, room.sum()))
    wanted = np.diff(np.floor(np.cumsum(np.concatenate([[0], room])) * share + 0.5).astype(int))
    if wanted.sum() < 2:
        raise UserError(f"the {part} chapters have no pairs of equal overlap in all grades: give a longer text")
    chosen: list[tuple[int, int, int]] = []
    for grade, mask in zip(GRADES, of_grade, strict=True):
        rows, columns = np.nonzero(mask & (wanted[places] > 0))
        found = places[rows, columns]
        for place in np.flatnonzero(wanted):
            for i in rng.choice(np.flatnonzero(found == place), wanted[place], replace=False):
                chosen.append((pool[rows[i]], pool[columns[i]], grade))
    return Pairs(*np.array(chosen).T)


def mean_overlap(verses: Verses, pairs: Pairs, length: int) -> Mapping[int, float]:
    """Returns the mean overlap of the pairs of each grade."""
    overlaps = [_jaccard(verses, a, b, length) for a, b in zip(pairs.kjv, pairs.web, strict=True)]
    return {grade: float(np.mean(np.array(overlaps)[pairs.grade == grade])) for grade in GRADES}


def _candidates(verses: Verses, pool: np.ndarray, anchor: int) -> np.ndarray:
    """Returns which verses of the pool (n,) may be the partner of a verse in each grade: (grades, n)."""
    books = abs(verses.books[pool] - verses.books[anchor])
    same_chapter = verses.chapters[pool] == verses.chapters[anchor]
    distance = verses.numbers[pool] - verses.numbers[anchor]
    return np.stack(
        [
            books * _FAR >= verses.books[-1] + 1,
            (books == 0) & ~same_chapter,
            same_chapter & (abs(distance) >= NEAREST),
            same_chapter & (distance == 1),
            distance == 0,
        ]
    )


def _jaccard(verses: Verses, kjv: int, web: int, length: int) -> float:
    a, b = verses.words("kjv", kjv, length), verses.words("web", web, length)
    return len(a & b) / max(1, len(a | b))


def _overlaps(verses: Verses, pool: np.ndarray, length: int) -> np.ndarray:
    """Returns the Jaccard index (n, n) of the words of each KJV verse and each WEB verse of the pool."""
    kjv, web = ([verses.words(name, verse, length) for verse in pool] for name in ("kjv", "web"))
    where: tuple[dict[str, list[int]], dict[str, list[int]]] = ({}, {})
    for places, texts in zip(where, (kjv, web), strict=True):
        for i, words in enumerate(texts):
            for word in words:
                places.setdefault(word, []).append(i)
    common = np.zeros((len(pool), len(pool)), dtype=np.float32)
    for word in sorted(where[0].keys() & where[1].keys()):
        common[np.ix_(where[0][word], where[1][word])] += 1
    sizes = [np.array([len(words) for words in texts], dtype=np.float32) for texts in (kjv, web)]
    overlaps: np.ndarray = common / np.maximum(1, sizes[0][:, None] + sizes[1] - common)
    return overlaps
