"""Optuna's journal: what damage it notices, and how it is mended."""

from pathlib import Path

import pytest

from study.base.errors import UserError
from study.engine.optuna_runs import open_optuna_study
from study.records import journal
from study.records.optuna_study import open_storage

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("torn", [b'{"op_code":4,"wor', b"\0\0\0\0\n", b"[1]\n"])
def test_journal_whose_last_line_is_damaged_goes_on(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "optuna.journal"
    study = open_optuna_study(open_storage(None, path), "study", "tpe", 1)
    study.ask()
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    journal.mend(path)
    assert path.read_bytes() == whole
    again = open_optuna_study(open_storage(None, path), "study", "tpe", 1)
    again.ask()
    assert [trial.number for trial in again.trials] == [0, 1]


def journal_of_three(tmp_path: Path) -> tuple[Path, bytes]:
    path = tmp_path / "optuna.journal"
    study = open_optuna_study(open_storage(None, path), "study", "tpe", 1)
    for _ in range(3):
        trial = study.ask()
        study.tell(trial, trial.suggest_float("rate", 0.0, 0.9))
    return path, path.read_bytes()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("damage", ["flipped bit", "missing line", "truncated", "gone"])
def test_journal_that_is_damaged_anywhere_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, share: float
) -> None:
    path, whole = journal_of_three(tmp_path)
    place = int(share * len(whole))
    lines = whole.splitlines(keepends=True)
    if damage == "flipped bit":
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    elif damage == "missing line":
        path.write_bytes(b"".join(line for i, line in enumerate(lines) if i != int(share * len(lines))))
    elif damage == "truncated":
        path.write_bytes(whole[:place])
    else:
        path.unlink()
    if damage == "flipped bit":  # who only reads it says so
        with pytest.raises(UserError, match=r"optuna\.journal is damaged .*: study\.search --resume mends it"):
            open_storage(None, path)
    journal.mend(path)
    assert path.read_bytes() == whole
    assert "optuna.journal is damaged: optuna.copy.journal is used, and nothing is lost" in caplog.text
    study = open_optuna_study(open_storage(None, path), "study", "tpe", 1)
    study.ask()
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]


def test_every_bit_of_a_journal_is_watched(tmp_path: Path) -> None:
    path, whole = journal_of_three(tmp_path)
    line = next(line for line in whole.splitlines(keepends=True) if b'"param_name"' in line)
    at = whole.index(line)
    for position in range(at, at + len(line)):
        for bit in (1, 64):
            damaged = bytearray(whole)
            damaged[position] ^= bit
            path.write_bytes(damaged)
            journal.mend(path)
            assert path.read_bytes() == whole


def test_journal_and_copy_mend_each_other_unless_both_lack_a_line(tmp_path: Path) -> None:
    path, whole = journal_of_three(tmp_path)
    copy = tmp_path / "optuna.copy.journal"
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:]))
    copy.write_bytes(b"".join(lines[:6] + lines[7:]))
    journal.mend(path)
    assert path.read_bytes() == copy.read_bytes() == whole
    for place in (path, copy):
        place.write_bytes(whole.replace(lines[3], lines[3][1:]))
    with pytest.raises(UserError, match=r"damaged at line 4, and so is optuna\.copy\.journal"):
        journal.mend(path)
    for place in (path, copy):
        place.write_bytes(b"not one line of ours\n" * 9)
    with pytest.raises(UserError, match="every line"):
        journal.mend(path)
