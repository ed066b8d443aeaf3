"""Files whose damage would change an answer: a SHA-256 notices it.

A small file that a study cannot do without carries its own, in its last line, and has a copy beside it. The large files
of a folder are listed with theirs in a manifest beside them.
"""

import hashlib
import json
import logging
import re
from pathlib import Path

from study.base.files import atomic_path

log = logging.getLogger(__name__)
MAX_BYTES = 1_000_000
MANIFEST = "manifest.json"
SEAL = "# not to be edited; SHA-256 of the lines above: "
SEALED = re.compile(rb"(.*^)" + SEAL.encode() + rb"([0-9a-f]{64})\n", re.DOTALL | re.MULTILINE)


def copy_of(path: Path) -> Path:
    """Returns where the copy of a file lies: x.yaml has x.copy.yaml."""
    return path.with_name(f"{path.stem}.copy{path.suffix}")


def write_kept(path: Path, text: str) -> None:
    """Writes a YAML file and its copy, each whole or not at all. `text` ends its last line."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    for place in (path, copy_of(path)):
        with atomic_path(place, durable=True) as part:
            part.write_text(f"{text}{SEAL}{digest}\n", encoding="utf-8")


def read_kept(path: Path) -> bytes:
    """Returns what was written; from the copy if the file is damaged or gone, and says so.

    Raises:
        FileNotFoundError: if neither exists.
        ValueError: if neither is whole.
    """
    try:
        return _read(path)
    except (OSError, ValueError) as error:
        try:
            text = _read(copy_of(path))
        except (OSError, ValueError):
            raise error from None
        reason = error.strerror if isinstance(error, OSError) else error
        log.warning("%s is damaged (%s): its copy is used", path, reason)
        return text


def write_manifest(folder: Path, digests: dict[str, str]) -> Path:
    """Writes the SHA-256 of files of a folder, by their names; returns the manifest's path."""
    path = folder / MANIFEST
    path.write_text(json.dumps(digests), encoding="ascii")
    return path


def check_manifest(folder: Path, name: str) -> None:
    """Checks a file of a folder against the manifest beside it.

    Raises:
        OSError: if one of the two is not there.
        ValueError, KeyError, TypeError: if one of the two is damaged.
    """
    with (folder / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if json.loads((folder / MANIFEST).read_bytes())[name] != digest:
        raise ValueError("its checksum differs")


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    sealed = SEALED.fullmatch(raw)
    if sealed is None:
        raise ValueError("it has no checksum")
    if hashlib.sha256(sealed[1]).hexdigest() != sealed[2].decode():
        raise ValueError("its checksum differs")
    return sealed[1]
