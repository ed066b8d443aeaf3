"""How well embeddings tell which verses have much in common: verse similarity. There are no human scores behind it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.contrast import alignment, anisotropy, uniformity, unit
from study.base.errors import UserError
from study.tasks.lexical import tf_idf
from study.tasks.verse_pairs import Pairs, graded_pairs, matched_pairs
from study.tasks.verses import Part, Verses

QUERIES = 500
_SEED = 18


@dataclass(frozen=True, eq=False)
class VerseTest:
    """The verses of one part whose embeddings are scored, and the pairs among them.

    Attributes:
        rows: (n, T) tokens.
        queries, keys: (q,) rows: the same verses in the KJV and in the WEB.
        graded, matched: pairs, as rows; the second set is matched in lexical overlap.
    """

    rows: np.ndarray
    queries: np.ndarray
    keys: np.ndarray
    graded: Pairs
    matched: Pairs

    @classmethod
    def of(cls, verses: Verses, part: Part, pairs_per_grade: int, length: int) -> "VerseTest":
        """Makes the test of a part, which depends on the arguments alone. Raises UserError if the part is too small."""
        chosen = np.random.default_rng(_SEED).permutation(verses.part(part))[:QUERIES]
        if len(chosen) < 2:
            raise UserError(f"the {part} chapters have {len(chosen)} verses: give a longer text")
        pairs = graded_pairs(verses, part, pairs_per_grade), matched_pairs(verses, part, pairs_per_grade, length)
        kjv = np.unique(np.concatenate([chosen, *(p.kjv for p in pairs)]))
        web = np.unique(np.concatenate([chosen, *(p.web for p in pairs)]))
        rows = np.concatenate([verses.rows("kjv", kjv, length), verses.rows("web", web, length)])
        graded, matched = (Pairs(_places(kjv, p.kjv), len(kjv) + _places(web, p.web), p.grade) for p in pairs)
        return cls(rows, _places(kjv, chosen), len(kjv) + _places(web, chosen), graded, matched)

    def lexical_scores(self, verses: Verses) -> dict[str, float]:
        """Returns the scores of 3-gram TF-IDF, which knows the training chapters' KJV."""
        documents = verses.rows("kjv", verses.part("train"), self.rows.shape[1])
        return self.scores(torch.from_numpy(tf_idf(self.rows, documents, verses.corpus.vocab, verses.end)))

    def scores(self, embeddings: Tensor) -> dict[str, float]:
        """Returns the scores of embeddings (n, C), one a row.

        - `spearman`, `matched_spearman`: rank correlation of cosine and grade over each set of pairs.
        - `top1`: the share of the KJV queries whose nearest WEB verse among all keys is the same verse.
        - `alignment` of queries and keys; `uniformity` and `anisotropy` of the queries.
        """
        x = unit(embeddings.cpu())
        queries, keys = x[self.queries], x[self.keys]
        nearest = (queries @ keys.T).argmax(1)
        return {
            "spearman": _pairs_spearman(x, self.graded),
            "matched_spearman": _pairs_spearman(x, self.matched),
            "top1": float((nearest == torch.arange(len(nearest))).double().mean()),
            "alignment": alignment(queries, keys),
            "uniformity": uniformity(queries),
            "anisotropy": anisotropy(queries),
        }


def _places(known: np.ndarray, verses: np.ndarray) -> np.ndarray:
    places: np.ndarray = np.searchsorted(known, verses)
    return places


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the rank correlation of two samples (n,), ties with their mean rank; NaN if a sample is constant.

    scipy has one too, but a bare training machine does not have scipy.
    """
    x, y = (rank - rank.mean() for rank in (_ranks(a), _ranks(b)))
    with np.errstate(invalid="ignore"):
        return float((x @ y) / np.sqrt((x @ x) * (y @ y)))


def _ranks(sample: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(sample, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


def _pairs_spearman(x: Tensor, pairs: Pairs) -> float:
    cosines = (x[pairs.kjv] * x[pairs.web]).sum(1)
    return spearman(cosines.numpy(), pairs.grade)
