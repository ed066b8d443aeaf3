"""Optuna's journal: what a crash leaves of it, what Optuna's own tools add to it, and which damage is noticed."""

import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from study.base.errors import UserError
from study.engine.optuna_runs import open_optuna_study
from study.records.journal import repair
from study.records.optuna_study import open_storage
from tests.clean_environment import environment
from tests.conftest import Study, run, start, wait_for_a_trial

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("torn", [b'{"op_code":4,"wor', b"\0\0\0\0\n", b"[1]\n"])
def test_journal_whose_last_line_is_damaged_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, torn: bytes
) -> None:
    path = tmp_path / "optuna.journal"
    study = open_optuna_study(open_storage(None, path), "study", "tpe", 1)
    study.ask()
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    repair(path)
    assert path.read_bytes() == whole
    assert f"the last line of {path} is damaged: it is left out" in caplog.text
    again = open_optuna_study(open_storage(None, path), "study", "tpe", 1)
    again.ask()
    assert [trial.number for trial in again.trials] == [0, 1]


def test_a_journal_that_is_whole_or_not_there_stays_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "optuna.journal"
    repair(path)
    assert not path.exists()
    open_optuna_study(open_storage(None, path), "study", "tpe", 1).ask()
    whole = path.read_bytes()
    repair(path)
    assert path.read_bytes() == whole
    assert not caplog.text


def test_the_lock_of_a_dead_writer_holds_up_no_one(tmp_path: Path) -> None:
    path = tmp_path / "optuna.journal"
    study = open_optuna_study(open_storage(None, path), "study", "tpe", 1)
    lock = tmp_path / "optuna.journal.lock"
    lock.symlink_to(path)  # as Optuna's own tools make it
    repair(path)
    assert not lock.is_symlink()
    study.ask()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["optuna.journal"]


@pytest.mark.parametrize("damage", [b"\0\0\0\0\n", b"[1]\n", b'{"op_code":5}\n', b'{"op_code":4,"trial_id":\n'])
def test_a_journal_that_optuna_cannot_read_is_refused_in_a_line(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "optuna.journal"
    study = open_optuna_study(open_storage(None, path), "study", "tpe", 1)
    for _ in range(3):
        study.ask()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], damage, *lines[3:]]))
    repair(path)
    with pytest.raises(UserError, match=r"optuna\.journal is damaged \(.*\): put a copy of it back"):
        open_storage(None, path)


@pytest.mark.parametrize("fault", ["removed", "cut"])
def test_a_journal_that_vanishes_under_a_study_is_not_begun_anew(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "optuna.journal"
    study = open_optuna_study(open_storage(None, path), "study", "tpe", 1)
    study.ask()
    if fault == "removed":
        path.unlink()
    else:
        path.write_bytes(b"")
    with pytest.raises(UserError, match="was removed or cut while the study ran"):
        study.ask()
    assert not path.exists() or not path.read_bytes()


def test_who_lost_the_studys_lock_writes_no_record(tmp_path: Path) -> None:
    path = tmp_path / "optuna.journal"
    open_optuna_study(open_storage(None, path), "study", "tpe", 1)
    whole = path.read_bytes()

    def taken_over() -> None:
        raise SystemExit(1)

    with pytest.raises(SystemExit):
        open_optuna_study(open_storage(None, path, taken_over), "study", "tpe", 1).ask()
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_a_study_gets_more_trials_and_keeps_the_notes_of_optunas_own_tools(tmp_path: Path) -> None:
    """The notes are taken while the study runs, and afterwards."""
    new = ["--preset", "smoke", "--gpus", "0", "--steps", "600", "--scheduler", "none", "--trials", "5"]
    process = start(["-u", "-m", "study.search", "--name", "study", *new], tmp_path)
    journal = Path("studies", "study", "optuna.journal")
    optuna_tool = shutil.which("optuna", path=Path(sys.executable).parent)
    assert optuna_tool is not None

    def note(key: str) -> None:
        command = [optuna_tool, "study", "set-user-attr", "--study-name", "study", "--storage", str(journal)]
        command += ["--storage-class", "JournalFileBackend", "--key", key, "--value", "promising"]
        subprocess.run(command, cwd=tmp_path, env=environment(), check=True, capture_output=True)

    try:
        wait_for_a_trial(process)
        note("during")
        assert process.poll() is None
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, out + err
    note("afterwards")
    done = run(["-m", "study.report", "--study", "study"], tmp_path)
    assert done.returncode == 0, done.stderr
    shown = Study(tmp_path, "study", out)
    run_ids = {number: trial.info.run_id for number, trial in shown.trials().items()}
    done = run(["-m", "study.search", "--name", "study", "--resume", "--trials", "6"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stdout
    assert "error" not in done.stdout
    assert sorted(shown.trials()) == list(range(6))
    assert run_ids.items() <= {number: trial.info.run_id for number, trial in shown.trials().items()}.items()
    study = optuna.load_study(study_name="study", storage=open_storage(None, tmp_path / journal))
    assert study.user_attrs == {"during": "promising", "afterwards": "promising"}
    assert len(study.trials) == 6
