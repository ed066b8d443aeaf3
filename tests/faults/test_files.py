"""Files from elsewhere are data, and names stay in their folder."""

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from model.schedules import from_dict
from study.base.errors import UserError
from study.corpus import build_corpus
from study.records.study_layout import StudyFolder
from study.training.config import PRESETS
from study.training.evaluation_rows import Labels
from study.training.run_folder import RunFolder
from study.training.trainer import Trainer
from tests.faults.test_fuzz import CONFIG

pytestmark = pytest.mark.faults


class Evil:
    """What a file from elsewhere may hold: code that runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._mark),)


def test_a_pickle_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    corpus = build_corpus("to be or not to be, that is the question. " * 100)
    training = PRESETS["smoke"].training
    schedule = from_dict({"kind": "constant", "rate": 0.1})
    folder = RunFolder(tmp_path / "run")
    next(folder.run(Trainer(training, schedule, corpus), Labels()))
    state = folder.resume / "step-00000000" / "state.pt"
    mark = tmp_path / "it ran"
    torch.save({"model": Evil(mark)}, state)
    digest = hashlib.sha256(state.read_bytes()).hexdigest()
    (state.parent / "manifest.json").write_text(json.dumps({"state.pt": digest}))
    assert not folder.checkpoints.restore(Trainer(training, schedule, corpus))
    assert not mark.exists()
    assert "damaged" in caplog.text
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists(), "the file would have run code"


def test_a_run_that_is_begun_again_has_each_evaluation_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    corpus = build_corpus("to be or not to be, that is the question. " * 100)
    schedule = from_dict({"kind": "constant", "rate": 0.1})
    for _ in range(3):
        folder = RunFolder(tmp_path / "run")
        evaluations = folder.run(Trainer(PRESETS["smoke"].training, schedule, corpus), Labels())
        assert [next(evaluations).step, next(evaluations).step] == [0, 10]
        evaluations.close()
        assert [row["step"] for row in folder.rows()] == [0, 10]
        folder.finish()  # it died before its first checkpoint


@pytest.mark.parametrize("name", ["..", "a/b", "/tmp/x", "", ".hidden", "a\nb", "a\0b", "x" * 101])
def test_names_of_studies_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        StudyFolder(tmp_path, name)


def test_config_of_another_study_is_refused(tmp_path: Path) -> None:
    mine, other = StudyFolder(tmp_path, "mine"), StudyFolder(tmp_path, "study")
    for folder in (mine, other):
        folder.make()
    other.write_config(CONFIG)
    mine.config.write_bytes(other.config.read_bytes())
    with pytest.raises(UserError, match="it is the config of study 'study'"):
        mine.read_config()
