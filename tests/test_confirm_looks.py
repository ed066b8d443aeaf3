"""A real study confirmed in looks, killed between them, and its power."""

import json
import os
import shutil
import signal
from functools import partial

import pytest

from study.confirm.__main__ import main
from study.confirm.arms import (
    BASELINE,
)
from study.confirm.results import read_results
from tests.conftest import Study, run, start
from tests.test_confirm import folder_of
from tests.test_mistakes import check


@pytest.fixture(scope="module")
def looked_at(finished_study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, dict, set[str], dict]:
    """A copy of the real study, confirmed with --until-decided: killed in its second look, and repeated.

    Returns the study, its verdict after the first look, the runs that had ended when it was killed, and the last one.
    """
    study = Study(tmp_path_factory.mktemp("looks"), finished_study.name, finished_study.output)
    shutil.copytree(finished_study.folder, study.folder, dirs_exist_ok=True)
    command = ["-m", "study.confirm", "--study", study.name, "--top", "1", "--sweep-seeds", "1", "--gpus", "0"]
    command += ["--until-decided", "--max-seeds", "4", "--smallest", "0.0001"]
    process = start(["-u", *command], study.folder)
    try:
        assert process.stdout is not None
        printed = ""
        while "completed" not in printed.partition("look at 3 seeds")[2]:
            line = process.stdout.readline()
            assert line, f"the confirmation ended: {printed}{process.stderr and process.stderr.read()}"
            printed += line
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    first = json.loads((folder_of(study) / "verdict.json").read_text())
    ended = {line.split()[0] for line in printed.splitlines() if line.endswith("completed")}
    done = run(command, study.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    again = {line.split()[0] for line in done.stdout.splitlines() if line.endswith("completed")}
    assert len(ended & again) <= 1, "at most the run whose end was not yet noted when the driver died"
    return study, first, ended | again, json.loads((folder_of(study) / "verdict.json").read_text())


@pytest.mark.slow
@pytest.mark.faults
def test_looks_go_on_exactly_where_a_killed_confirmation_stood(
    looked_at: tuple[Study, dict, set[str], dict],
) -> None:
    study, first, trained, last = looked_at
    before, after = first["sequential"], last["sequential"]
    assert (before["plan"], before["stopped"], len(before["looks"])) == ([3, 4], None, 1)
    assert after["looks"][0] == before["looks"][0]
    assert [look["seeds"] for look in after["looks"]] == [3, 4]
    assert (last["looks"], last["warnings"] and [w for w in last["warnings"] if "before" in w]) == ([3], [])
    assert after["stopped"] in ("shown", "excluded", "seeds")
    results = read_results(folder_of(study))
    assert {f"{row['arm']}/seed-{row['seed']}" for row in results.runs + results.sweep} == trained
    asked = {arm["arm"] for arm in after["looks"][1]["arms"]}
    assert {arm["arm"]: arm["n"] for arm in last["arms"]} == {
        arm["arm"]: 4 if arm["arm"] in asked | {BASELINE} else 3 for arm in last["arms"]
    }


@pytest.mark.slow
def test_decided_looks_are_shown_without_ray_and_cannot_be_changed(
    looked_at: tuple[Study, dict, set[str], dict],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study, _, _, last = looked_at
    code = (
        "import sys; from study.confirm.__main__ import main; status = main(sys.argv[1:]);"
        "assert 'ray' not in sys.modules; sys.exit(status)"
    )
    done = run(["-c", code, "--study", study.name], study.folder)
    assert done.returncode == 0, done.stderr
    assert last["verdict"] in done.stdout
    monkeypatch.chdir(study.folder)
    for more, named in (
        (["--seeds", "9"], "--seeds contradicts"),
        (["--max-seeds", "9"], "--max-seeds 9 contradicts"),
        (["--smallest", "0.5"], "--smallest 0.5 contradicts"),
    ):
        flags = more if more[0] == "--seeds" else ["--until-decided", *more]
        check(partial(main, ["--study", study.name, *flags]), named, study.folder, capsys)


@pytest.mark.slow
def test_power_is_told_and_drawn_without_ray(looked_at: tuple[Study, dict, set[str], dict]) -> None:
    study, _, _, last = looked_at
    code = (
        "import sys; from study.confirm.__main__ import main; status = main(sys.argv[1:]);"
        "assert 'ray' not in sys.modules; sys.exit(status)"
    )
    done = run(["-c", code, "--study", study.name, "--power", "--smallest", "0.02"], study.folder)
    assert done.returncode == 0, done.stderr
    assert f"seed SD {last['seed_sd']:.4f} nats, measured from the runs that exist" in done.stdout
    assert "excludes a gain of 0.02 nats or more" in done.stdout
    assert (folder_of(study) / "power.svg").read_text().startswith("<svg ")
    assert json.loads((folder_of(study) / "verdict.json").read_text()) == last
