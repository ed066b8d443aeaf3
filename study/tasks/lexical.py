"""The lexical baseline: 3-gram TF-IDF, which has learnt nothing but how often three characters stand together."""

import numpy as np

N = 3


def tf_idf(rows: np.ndarray, documents: np.ndarray, vocab: str, end: int) -> np.ndarray:
    """Returns the TF-IDF vectors (n, C) of verses, of length 1, float32; C is the number of their different 3-grams.

    A 3-gram's weight is its count in the verse times 1 + ln((1 + D) / (1 + d)), where d of the D documents have it: as
    scikit-learn's TfidfVectorizer(analyzer="char", ngram_range=(3, 3)) does by default. Upper case counts as lower.

    Args:
        rows: (n, T) tokens, filled up with `end`.
        documents: (D, T) tokens, in the same form.
        vocab: the characters of the tokens.
    """
    lower = np.array([ord(character.lower()) for character in vocab])
    lower[end] = 0
    codes, row_of = _n_grams(lower[rows])
    known, column = np.unique(codes, return_inverse=True)
    counts = np.zeros((len(rows), len(known)), dtype=np.float32)
    np.add.at(counts, (row_of, column), 1)
    theirs, document = _n_grams(lower[documents])
    places = np.searchsorted(known, theirs).clip(max=len(known) - 1)
    is_known = known[places] == theirs
    seen = np.unique(document[is_known] * len(known) + places[is_known])  # once a document
    frequency = np.bincount(seen % len(known), minlength=len(known))
    counts *= 1 + np.log((1 + len(documents)) / (1 + frequency)).astype(np.float32)
    lengths: np.ndarray = np.linalg.norm(counts, axis=1, keepdims=True)
    vectors: np.ndarray = counts / np.maximum(lengths, np.float32(1e-12))
    return vectors


def _n_grams(characters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the 3-grams of rows of code points as numbers, and the row of each; 0 ends a row."""
    size = characters.shape[1] - N + 1
    parts = [characters[:, i : i + size].astype(np.int64) for i in range(N)]
    row_of, place = np.nonzero(np.logical_and.reduce(parts))
    code = np.zeros(len(row_of), dtype=np.int64)
    for part in parts:
        code = code << 21 | part[row_of, place]  # 21 bits hold any code point
    return code, row_of
