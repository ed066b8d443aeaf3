"""Trials that fail in a real study: the study goes on, and says so; if all fail, it fails."""

from pathlib import Path

import pytest

from tests.conftest import Study, run, search

pytestmark = pytest.mark.slow

# A space that suggests what the training refuses: the error is raised in a worker, by the real code.
WITH_BAD_SCHEDULES = """
import sys
from search_spaces import SPACES
from study.errors import exit_status
from study.search import main
good = SPACES["dynamic_dropout"]
bad = {numbers}
SPACES["dynamic_dropout"] = lambda trial: {{"kind": "nope"}} if trial.number in bad else good(trial)
sys.exit(exit_status(lambda: main(sys.argv[1:])))
"""


def program(folder: Path, numbers: str) -> str:
    path = folder / "with_bad_schedules.py"
    path.write_text(WITH_BAD_SCHEDULES.format(numbers=numbers))
    return str(path)


def test_a_failed_trial_is_told_as_failed_and_the_study_goes_on(tmp_path: Path) -> None:
    study = search(tmp_path, "study", "--gpus", "0", "--trials", "6", program=[program(tmp_path, "[1, 5]")])
    outcomes = {number: trial.data.tags["outcome"] for number, trial in study.trials().items()}
    assert {number for number, outcome in outcomes.items() if outcome == "failed"} == {1, 5}
    assert len(outcomes) == 6
    for number in (1, 5):
        trial = study.trials()[number]
        assert trial.info.status == "FAILED"
        assert "'nope'" in trial.data.tags["reason"]
        (traceback,) = study.client.list_artifacts(trial.info.run_id)
        assert traceback.path == "traceback.txt"
    assert study.output.count("failed: ValueError") == 2


def test_if_every_trial_fails_the_study_fails_in_one_line(tmp_path: Path) -> None:
    arguments = ["--preset", "smoke", "--gpus", "0", "--trials", "3", "--name", "study"]
    done = run([program(tmp_path, "range(9)"), *arguments], tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "no trial of study study was completed" in done.stderr
    study = Study(tmp_path, "study", done.stdout)
    assert {trial.info.status for trial in study.runs("trial")} == {"FAILED"}
    assert len(study.runs("trial")) == 3
    (parent,) = study.runs("study")
    assert parent.info.status == "FAILED"
