"""Verses in three translations, as tokens of one corpus, and which of them train."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from study.base.errors import UserError
from study.bible import TRANSLATIONS
from study.corpus import Corpus

Part = Literal["train", "development", "test"]
Translation = Literal["kjv", "ylt", "web"]
_EVERY = 10
_PLACE: dict[int, Part] = {0: "test", 5: "development"}
"""Of ten chapters in a row, which do not train."""


@dataclass(frozen=True, eq=False)
class Verses:
    """The verses of a corpus, each in the three translations of `study.bible.TRANSLATIONS`.

    Attributes:
        corpus: its text has a line for each verse: number, KJV, YLT and WEB, with tabs between them.
        numbers: (n,), rising: book, then three digits each for chapter and verse.
        starts: (n, 3), where each translation of a verse starts in the corpus; `ends` where it ends.
    """

    corpus: Corpus
    numbers: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, corpus: Corpus) -> "Verses":
        """Reads the lines of a corpus. Raises UserError if they have another form."""
        bad = UserError(
            "the task sentences needs a corpus of verses, a line each: number, tab, KJV, tab, YLT, tab, WEB, numbers "
            "rising: give --corpus verses, or a text file of that form"
        )
        if not {"\t", "\n"} <= set(corpus.vocab):
            raise bad
        tab, line = corpus.encode("\t\n")
        breaks = np.flatnonzero((corpus.tokens == tab) | (corpus.tokens == line))
        kinds = corpus.tokens[breaks]
        if (
            len(breaks) % 4
            or (kinds.reshape(-1, 4) != [tab, tab, tab, line]).any()
            or breaks[-1] + 1 < len(corpus.tokens)
        ):
            raise bad
        of_line = breaks.reshape(-1, 4)
        line_starts = np.concatenate([[0], of_line[:-1, 3] + 1])
        words = (corpus.decode(corpus.tokens[a:b].tolist()) for a, b in zip(line_starts, of_line[:, 0], strict=True))
        try:
            numbers = np.array([int(word) for word in words])
        except ValueError:
            raise bad from None
        starts, ends = of_line[:, :3] + 1, of_line[:, 1:]
        if (np.diff(numbers) <= 0).any() or (ends <= starts).any():
            raise bad
        return cls(corpus, numbers, starts, ends)

    @property
    def end(self) -> int:
        """The token that follows a verse, and fills up its row."""
        return self.corpus.encode("\n")[0]

    @cached_property
    def chapters(self) -> np.ndarray:
        """The rank (n,) of each verse's chapter among all chapters."""
        return np.unique(self.numbers // 1000, return_inverse=True)[1]

    @cached_property
    def books(self) -> np.ndarray:
        """The rank (n,) of each verse's book among all books."""
        return np.unique(self.numbers // 10**6, return_inverse=True)[1]

    def part(self, name: Part) -> np.ndarray:
        """Returns the indices of a part's verses. Whole chapters: every tenth is test, and every tenth development."""
        places = self.chapters % _EVERY
        return np.flatnonzero([_PLACE.get(int(place), "train") == name for place in places])

    def rows(self, translation: Translation, verses: np.ndarray, length: int) -> np.ndarray:
        """Returns the tokens (k, length) of verses (k,), which are cut, or filled up with `end`."""
        column = TRANSLATIONS.index(translation)
        places = self.starts[verses, column][:, None] + np.arange(length)
        is_text = places < self.ends[verses, column][:, None]
        return np.where(is_text, self.corpus.tokens[np.where(is_text, places, 0)], self.end)

    def words(self, translation: Translation, verse: int, length: int) -> frozenset[str]:
        """Returns the words of a verse's first `length` characters, in lower case, without punctuation."""
        column = TRANSLATIONS.index(translation)
        start, end = self.starts[verse, column], self.ends[verse, column]
        text = self.corpus.decode(self.corpus.tokens[start : min(end, start + length)].tolist())
        return frozenset(word for part in text.lower().split() if (word := part.strip("\"'(),-.:;?!")))
