"""Corpora: their splits, their tokens, the Arrow file that holds them, and the refusals."""

import hashlib
import os
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.base.errors import UserError
from study.corpus import (
    BLOCK,
    SHAKESPEARE_CHAR_SHA256,
    build_corpus,
    cached_corpus,
    corpus_id,
    load_corpus,
    load_text,
    open_corpus,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; returns where corpora are kept in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dynamic-dropout"


@pytest.mark.parametrize("n", [1, 19, 20, 999, 1000, 1013])
def test_splits_are_90_5_and_5_percent(n: int) -> None:
    corpus = build_corpus("".join(chr(0x4E00 + i) for i in range(n)))  # rising, so that a token is its place
    train, val, test, full_val = (corpus.split(name).tolist() for name in ("train", "val", "test", "full_val"))
    assert train + val + test == list(range(n))
    assert full_val == val + test
    assert len(train) == int(n * 0.9)
    assert len(test) - len(val) in (0, 1)


def test_unknown_split_is_an_error() -> None:
    with pytest.raises(KeyError):
        build_corpus("ab").split("validation")


@settings(deadline=None, derandomize=True, database=None, max_examples=30)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_tokens_round_trip(text: str) -> None:
    corpus = build_corpus(text)
    assert corpus.decode(corpus.tokens.tolist()) == text
    assert corpus.encode(text) == corpus.tokens.tolist()
    assert corpus.vocab == "".join(sorted(set(text)))
    assert corpus.sha256 == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("n", "dtype"), [(1, np.uint8), (256, np.uint8), (257, np.uint16), (65_536, np.uint16), (65_537, np.uint32)]
)
def test_tokens_take_the_smallest_type(n: int, dtype: type[np.generic]) -> None:
    text = "".join(chr(0x10000 + i) for i in range(n))
    corpus = build_corpus(text + text[0])
    assert corpus.tokens.dtype == dtype
    assert corpus.tokens.tolist() == [*range(n), 0]
    assert corpus.vocab == text


def test_unknown_character_cannot_be_encoded() -> None:
    with pytest.raises(KeyError):
        build_corpus("abc").encode("abd")


def test_tokens_are_mapped_and_read_only() -> None:
    path = build_corpus("to be or not to be " * 50_000).path
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    corpus = open_corpus(path)
    taken = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - before
    tracemalloc.stop()
    assert len(corpus.tokens) == 950_000
    assert taken < 200_000  # bytes: the tokens themselves stay in the file
    assert not corpus.tokens.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        corpus.tokens[0] = 1


def test_file_is_built_once(cache: Path) -> None:
    first = build_corpus("to be or not to be")
    os.utime(first.path, ns=(10**18, 10**18))
    before = first.path.stat()
    second = build_corpus("to be or not to be")
    assert second.path == first.path
    assert (second.path.stat().st_mtime_ns, second.path.stat().st_ino) == (10**18, before.st_ino)
    assert np.array_equal(second.tokens, first.tokens)
    other = build_corpus("to be or not to bf")
    assert {path.name for path in cache.iterdir()} == {first.path.name, other.path.name}  # and nothing half made


def test_text_is_read_as_it_is(tmp_path: Path) -> None:
    content = "\ufeffline\r\n\u00e4nother\r\U0001f3ad\n\n".encode()  # no byte order mark or line end is changed
    (tmp_path / "text.txt").write_bytes(content)
    assert load_text(str(tmp_path / "text.txt")).encode() == content
    corpus = load_corpus(str(tmp_path / "text.txt"))
    assert corpus.sha256 == hashlib.sha256(content).hexdigest()


def test_bundled_text_has_65_characters() -> None:
    corpus = load_corpus("shakespeare")
    assert len(corpus.vocab) == 65
    assert len(corpus.tokens) > 1_100_000
    assert corpus.tokens.dtype == np.uint8


def test_id_of_a_path_does_not_depend_on_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert corpus_id("text.txt") == str(tmp_path / "text.txt")
    assert corpus_id("shakespeare") == "shakespeare"
    assert corpus_id("shakespeare_char") == "shakespeare_char"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.txt", "No such file"),
        ("folder", "Is a directory"),
        ("empty.txt", "is empty"),
        ("latin1.txt", r"is not UTF-8 \(byte 3\)"),
        ("utf16.txt", "is not UTF-8"),
        ("missing\0.txt", "cannot be read"),
    ],
)
def test_no_text_is_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin1.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (tmp_path / "utf16.txt").write_bytes("caf\u00e9".encode("utf-16"))
    path = str(tmp_path / name)
    with pytest.raises(UserError, match=words) as error:
        load_text(path)
    assert path in str(error.value) or repr(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("present", [False, True])
def test_text_that_cannot_be_fetched_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch, present: bool) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port: nothing listens there
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    if present:  # another text under its name does not pass for it
        cache.mkdir(parents=True)
        (cache / "shakespeare_char.txt").write_text("To be")
    with pytest.raises(UserError, match="--corpus shakespeare ") as error:
        load_text("shakespeare_char")
    assert str(cache / "shakespeare_char.txt") in str(error.value)
    assert SHAKESPEARE_CHAR_SHA256[:12] in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def damaged_corpora(path: Path) -> Iterator[None]:
    """Damages a corpus in the cache in one way after the other."""
    whole = path.read_bytes()
    for damage in (b"", whole[: len(whole) // 2], whole[:-10], b"\0" * len(whole)):
        path.unlink()  # the old file may still be mapped
        path.write_bytes(damage)
        yield
    path.unlink()
    path.write_bytes(build_corpus("another text").path.read_bytes())
    yield


def test_a_damaged_cache_is_noticed_and_made_again(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "to be or not to be"
    path = build_corpus(text).path
    whole = path.read_bytes()
    for _ in damaged_corpora(path):
        caplog.clear()
        corpus = build_corpus(text)
        assert corpus.decode(corpus.tokens.tolist()) == text
        assert [f"{path} is damaged" in record.getMessage() for record in caplog.records] == [True]
    for _ in damaged_corpora(path):
        caplog.clear()
        assert cached_corpus(path.stem, lambda: memoryview(whole)).tokens.tolist() == corpus.tokens.tolist()
        assert [f"{path} is damaged" in record.getMessage() for record in caplog.records] == [True]


def test_a_large_text_takes_little_memory_and_shows_how_much_is_read(tmp_path: Path) -> None:
    n = 20_000_000
    (tmp_path / "large.txt").write_bytes("to be or nöt to be, ".encode() * (n // 20))
    said: list[str] = []
    tracemalloc.start()
    corpus = load_corpus(str(tmp_path / "large.txt"), said.append)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(corpus.tokens) == n
    assert taken < 2 * n, "bytes a character: one of its token, and the blocks that are read"
    assert said[-1] == "reading corpus large.txt, 21 of 21 MB"
    assert len(said) > 20


def test_a_byte_that_is_not_utf8_is_found_in_any_block(tmp_path: Path) -> None:
    for at in (3, BLOCK - 1, BLOCK, 2 * BLOCK + 5):
        (tmp_path / "text.txt").write_bytes(b"x" * at + b"\xe9x")
        with pytest.raises(UserError, match=rf"not UTF-8 \(byte {at}\)"):
            load_text(str(tmp_path / "text.txt"))
    (tmp_path / "text.txt").write_bytes(b"x" * (BLOCK - 1) + "é€".encode() + b"\xe2\x82")
    with pytest.raises(UserError, match=rf"not UTF-8 \(byte {BLOCK + 4}\)"):
        load_text(str(tmp_path / "text.txt"))
    (tmp_path / "text.txt").write_bytes(b"x" * (BLOCK - 1) + "é€".encode())
    assert load_text(str(tmp_path / "text.txt"))[-2:] == "é€"


def test_a_pipe_is_no_corpus(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for a writer for ever
    with pytest.raises(UserError, match="no regular file"):
        load_text(str(tmp_path / "pipe"))


def test_a_text_that_is_gone_is_taken_from_the_cache(tmp_path: Path) -> None:
    (path := tmp_path / "text.txt").write_text("to be or not to be")
    corpus = load_corpus(str(path))
    path.unlink()
    assert np.array_equal(load_corpus(str(path), sha256=corpus.sha256).tokens, corpus.tokens)
    with pytest.raises(UserError, match="No such file"):
        load_corpus(str(path), sha256="0" * 64)


def test_the_canonical_file_needs_no_pooch(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)  # importing it raises ImportError, as on a bare machine
    cache.mkdir(parents=True)
    text = "a small text that stands for it"
    monkeypatch.setattr("study.corpus.SHAKESPEARE_CHAR_SHA256", hashlib.sha256(text.encode()).hexdigest())
    with pytest.raises(UserError, match="cannot be fetched"):
        load_text("shakespeare_char")
    (cache / "shakespeare_char.txt").write_text(text)
    assert load_text("shakespeare_char") == text
