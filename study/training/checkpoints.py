"""Checkpoints to resume a run from: each holds all that a bit-identical continuation needs, under a checksum."""

import hashlib
import io
import logging
import secrets
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Protocol

import torch

from study.base.files import PART
from study.base.sealed_files import MANIFEST, check_manifest, write_manifest
from study.training.trainable import Trainable

log = logging.getLogger(__name__)
STATE = "state.pt"
KEPT_CHECKPOINTS = 2
"""The newest, and the one before it, should the newest be damaged."""


class Uploads(Protocol):
    """Who is told of each file that a run has written, and removes its folders where the run is kept."""

    def put(self, *paths: Path) -> None: ...

    def remove(self, path: Path) -> None: ...


class KeptHere:
    """The uploads of a run whose folder is where it is kept: there are none."""

    def put(self, *paths: Path) -> None:
        """Uploads nothing."""

    def remove(self, path: Path) -> None:
        """Removes a folder."""
        shutil.rmtree(path, ignore_errors=True)


class Checkpoints:
    """The checkpoints of one run: `step-00000100/` with `state.pt` and its checksum in `manifest.json`."""

    def __init__(self, folder: Path, uploads: Uploads) -> None:
        self._folder, self._uploads = folder, uploads

    def write(self, trainer: Trainable) -> None:
        """Writes all that a continuation needs, right after an evaluation."""
        self._folder.mkdir(exist_ok=True)
        checkpoint = self._folder / f"step-{trainer.step:08d}"
        state = io.BytesIO()  # torch's own writing to a file hides that a disk is full
        torch.save(trainer.state_dict(), state)
        part = self._folder / f"{PART}{secrets.token_hex(8)}"
        part.mkdir()  # with the user's mask: tempfile would close it to a group that shares the study
        try:
            (part / STATE).write_bytes(state.getbuffer())
            write_manifest(part, {STATE: hashlib.sha256(state.getbuffer()).hexdigest()})
            shutil.rmtree(checkpoint, ignore_errors=True)  # of a continuation that was given up
            part.rename(checkpoint)
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        self._uploads.put(checkpoint / STATE, checkpoint / MANIFEST)
        for old in self._newest_first()[KEPT_CHECKPOINTS:]:
            self._uploads.remove(old)

    def newest_step(self) -> int:
        """Returns the step of the newest checkpoint, -1 if there is none."""
        return max((int(path.name.removeprefix("step-")) for path in self._newest_first()), default=-1)

    def restore(self, trainer: Trainable) -> bool:
        """Puts a fresh trainer where the latest good checkpoint was taken; False if there is none."""
        for checkpoint in self._newest_first():
            try:
                check_manifest(checkpoint, STATE)
                state = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
            except (OSError, ValueError, KeyError, TypeError, UnpicklingError) as error:
                reason = str(error).partition("\n")[0][:100]
                log.warning("checkpoint %s is damaged (%s): the one before it is used", checkpoint, reason)
                self._uploads.remove(checkpoint)
                continue
            trainer.load_state_dict(state)
            return True
        return False

    def _newest_first(self) -> list[Path]:
        return sorted(self._folder.glob("step-*"), reverse=True)
