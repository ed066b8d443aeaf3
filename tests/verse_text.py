"""A small text of made-up verses, in three translations, and a config of the task sentences for it."""

import random

from study.training.sentences_config import SentencesConfig

SENTENCES_CONFIG = SentencesConfig(
    n_layer=1, n_head=2, n_embd=16, block_size=24, batch_size=6, steps=14, learning_rate=1e-2, min_learning_rate=1e-3,
    warmup_steps=2, eval_interval=3, seed=7, language_steps=5, unsupervised_steps=5, supervised_steps=4,
    pairs_per_grade=10,
)  # fmt: skip

WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "r", "st", "l")]


def verse_text(books: int = 6, chapters: int = 20, verses: int = 12, seed: int = 1) -> str:
    """Returns the text: verses of a book, and more so of a chapter, share words, and each translation has its own."""
    rng = random.Random(seed)
    lines = []
    for book in range(1, books + 1):
        of_book = rng.sample(WORDS, 12)
        for chapter in range(1, chapters + 1):
            of_chapter = rng.sample(WORDS, 5)
            for verse in range(1, verses + 1):
                words = rng.sample(WORDS[:15], 3) + rng.sample(of_book, 2) + rng.sample(of_chapter, 2)
                rng.shuffle(words)
                changed = rng.uniform(0.2, 0.8)
                texts = [
                    " ".join(w + ending if rng.random() < changed else w for w in words)
                    for ending in ("eth", "ing", "s")
                ]
                lines.append("\t".join([f"{book}{chapter:03}{verse:03}", *(text.capitalize() + "." for text in texts)]))
    return "\n".join(lines) + "\n"
