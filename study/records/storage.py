"""Where studies are kept: a folder that every node sees, or an object store of which each node has what it needs."""

import logging
import shutil
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import IO

from pyarrow import fs

from study.base.errors import UserError
from study.base.errors import first_line as first_line
from study.base.files import atomic_path, cache_folder
from study.base.uris import redacted

log = logging.getLogger(__name__)
SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
"""Of the object stores whose URI pyarrow reads. Credentials come from the environment, and nothing keeps them."""
APPENDED = (".journal", ".jsonl", ".txt")
"""Ends of the names of files that grow by lines: a line that is being written is not sent."""
BLOCK = 1 << 20
THREADS = 16


class Storage:
    """Studies under a folder, or under a URI such as `s3://bucket/prefix?endpoint_override=HOST:PORT&scheme=http`.

    `folder` is where they lie on this machine: that folder, or one for copies from the object store, laid out likewise.
    Paths are always given as they are in `folder`. Raises UserError for a URI that cannot be one.
    """

    def __init__(self, uri: str, folder: Path | None = None) -> None:
        self.is_remote = "://" in uri
        self.uri = uri if self.is_remote else str(Path(uri).absolute())
        self.folder = folder or Path(self.uri)
        if not self.is_remote:
            return
        check_scheme(uri)
        try:
            self._store, base = fs.FileSystem.from_uri(uri)
        except (OSError, ValueError) as error:
            raise UserError(f"--storage {uri} cannot be used ({first_line(error)}): check the URI") from None
        self._base = base.strip("/")
        if not self._base:
            raise UserError(f"--storage {uri} names no bucket: give {uri.partition('://')[0]}://BUCKET/PREFIX")
        self.folder = folder or cache_folder() / "studies" / sha256(uri.encode()).hexdigest()[:16]

    def apart(self, whose: str) -> "Storage":
        """Returns the same storage with copies of its own: no one else on this machine writes them."""
        return Storage(self.uri, self.folder.with_name(f"{self.folder.name}-{whose}")) if self.is_remote else self

    def check(self) -> None:
        """Writes, reads and removes a file in an object store. Raises UserError if that does not work."""
        if not self.is_remote:
            return
        try:
            self.unmark(self.mark())
        except OSError as error:
            raise UserError(
                f"--storage {self.uri} cannot be used ({first_line(error)}): give a bucket that exists, and its "
                "credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
            ) from None

    def mark(self) -> Path:
        """Writes a file of a new name, for other nodes to look for."""
        path = self.folder / f".mark-{uuid.uuid4().hex}"
        if self.is_remote:
            self.write(path, b"seen")
        else:
            self._is_new = not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            path.touch()
        return path

    def unmark(self, path: Path) -> None:
        """Removes a mark."""
        if self.is_remote:
            self._store.delete_file(self._at(path))
        else:
            path.unlink()
            if self._is_new:
                self.folder.rmdir()

    def holds(self, path: Path) -> bool:
        """Whether there is a file or folder, in the object store if there is one. Raises OSError if that is away."""
        if not self.is_remote:
            return path.exists()
        return bool(self._store.get_file_info(self._at(path)).type != fs.FileType.NotFound)

    def list(self, path: Path) -> list[Path]:
        """Returns the files that the object store has below a folder.

        A key that is no path below the folder, such as one with `..`, is left out, and this is said: whoever can write
        to the bucket must not be able to write elsewhere on this machine.
        """
        found = self._store.get_file_info(fs.FileSelector(self._at(path), recursive=True, allow_not_found=True))
        files = {info.path: self.folder / info.path.removeprefix(f"{self._base}/") for info in found if info.is_file}
        for key, file in list(files.items()):
            if ".." in file.parts or not file.is_relative_to(path) or self._at(file) != key:
                log.warning("the key %r in the object store is no path of a file: it is left out", key)
                del files[key]
        return list(files.values())

    def fetch(self, path: Path) -> None:
        """Copies a file from the object store to `folder`, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_path(path) as part,
            self._store.open_input_stream(self._at(path)) as source,
            part.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, BLOCK)

    def fetch_all(self, paths: Iterable[Path]) -> None:
        """Copies many files."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self.fetch, paths))

    def read(self, path: Path) -> bytes | None:
        """Returns what the object store has in a small file, or None if it has none."""
        try:
            return bytes(self._store.open_input_stream(self._at(path)).read())
        except FileNotFoundError:
            return None

    def write(self, path: Path, content: bytes) -> None:
        """Writes a small file into the object store."""
        with self._store.open_output_stream(self._at(path)) as file:
            file.write(content)

    def send(self, file: IO[bytes], path: Path, size: int) -> None:
        """Copies an open file of a size to the object store; others see it whole or not at all.

        What was appended to lines since the file had that size is not sent.
        """
        with self._store.open_output_stream(self._at(path)) as target:
            if path.suffix in APPENDED:
                lines = file.read(size)
                target.write(lines[: lines.rfind(b"\n") + 1])
            else:
                shutil.copyfileobj(file, target, BLOCK)

    def delete(self, path: Path) -> None:
        """Removes a file from the object store, if it is there."""
        with suppress(FileNotFoundError):  # an earlier attempt removed it, and its answer was lost
            self._store.delete_file(self._at(path))

    @contextmanager
    def present(self, path: Path) -> Iterator[Path]:
        """Lends a file: one that only the object store has is in `folder` for as long as the context lasts."""
        is_copy = self.is_remote and not path.exists()
        if is_copy:
            self.fetch(path)
        try:
            yield path
        finally:
            if is_copy:
                path.unlink()

    def _at(self, path: Path) -> str:
        return f"{self._base}/{path.relative_to(self.folder).as_posix()}"


def check_scheme(uri: str) -> None:
    """Raises UserError for a URI that is no object store's, or that holds a secret."""
    if uri.partition("://")[0] not in SCHEMES:
        raise UserError(f"--storage {redacted(uri)}: give a folder, or a URI of {', '.join(SCHEMES)}")
    if redacted(uri) != uri:
        raise UserError(
            f"--storage {redacted(uri)} holds a secret: leave it out, and set it in the environment of every node "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
