"""A small text of made-up verses, in three translations, for the task sentences."""

import random

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
