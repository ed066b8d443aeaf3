"""The scores of runs of the task sentences, beside the two that every run must beat."""

from collections.abc import Mapping, Sequence
from typing import Any

from study.training.evaluation_rows import best_row, metrics_of

LEXICAL = "tfidf_"
"""Begins the names of the scores of 3-gram TF-IDF, which stand beside the model's own in every evaluation."""
SCORES = {
    "spearman": "Spearman",
    "matched_spearman": "Spearman, matched overlap",
    "top1": "top-1 of 500",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "anisotropy": "anisotropy",
}
"""The scores by name, and how a table calls them."""
TF_IDF, UNTRAINED = "3-gram TF-IDF", "untrained GPT"


def score_table(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    """Returns a table of verse similarity as texts: the head, 3-gram TF-IDF, the untrained model, and a row a run.

    A run stands with its evaluation of the lowest val_loss. Scores that a row does not have are empty.

    Args:
        runs: the evaluations of each run by its name, keyed as metrics.jsonl, from step 0 on; all of one test.
    """
    first = metrics_of(next(iter(runs.values()))[0])
    rows = {TF_IDF: {name.removeprefix(LEXICAL): v for name, v in first.items() if name.startswith(LEXICAL)}}
    rows[UNTRAINED] = first
    rows |= {name: metrics_of(best_row(evaluations)) for name, evaluations in runs.items()}
    return [["", *SCORES.values()]] + [
        [name, *(f"{scores[score]:.3f}" if score in scores else "" for score in SCORES)]
        for name, scores in rows.items()
    ]
