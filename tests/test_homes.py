"""Users without a home, or with one that cannot be written, and the caches that they then have."""

import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from study.base.errors import UserError
from study.base.files import cache_folder
from tests.conftest import run

NO_FOLDER = "/dev/null/cache"
STRANGER = 54321
"""A user who is in no table of users."""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of its own; returns where the cache is in it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", NO_FOLDER)
    return tmp_path / f"dynamic-dropout-{os.geteuid()}"


def test_a_cache_of_each_users_own_where_homes_cannot_be_written(temporary: Path) -> None:
    assert cache_folder() == temporary
    assert stat.S_IMODE(temporary.stat().st_mode) == 0o700
    assert cache_folder() == temporary, "the second time, too"


def test_a_temporary_folder_that_others_can_write_is_not_used(temporary: Path) -> None:
    temporary.mkdir()
    temporary.chmod(0o777)
    with pytest.raises(UserError, match="set HOME or XDG_CACHE_HOME"):
        cache_folder()


def test_a_link_in_place_of_the_temporary_folder_is_not_used(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    temporary.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="set HOME or XDG_CACHE_HOME"):
        cache_folder()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can become another user")
def test_a_user_without_a_home_and_without_an_entry_in_passwd() -> None:
    may_read = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # of our own folders
    become = ["setpriv", f"--reuid={STRANGER}", "--clear-groups", *may_read]
    code = (
        "from study.engine import cluster; from ray import tune; from study.base.files import cache_folder;"
        "cluster._keep_token(make=True); print(cache_folder())"
    )
    stranger = f"import os; os.environ.pop('HOME'); os.execvp('setpriv', {[*become, sys.executable, '-c', code]!r})"
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o777)
        done = run(["-c", stranger], Path(folder), TMPDIR=folder)
        assert done.returncode == 0, done.stderr
        cache = Path(folder, f"dynamic-dropout-{STRANGER}")
        assert Path(done.stdout.strip()).is_relative_to(cache)
        (token,) = cache.rglob("*auth_token")
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
