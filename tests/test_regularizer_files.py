"""Regularizers as dicts: in words, in files of both formats, in rows; and what is refused, in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from model.families import NANOGPT_SITES
from model.regularizer import Regularizer
from study import train
from study.base.errors import UserError
from study.base.regularizers import as_columns, as_regularizer, parts_of, parts_of_row
from study.engine.display import describe
from study.training.config import PRESETS
from study.training.evaluation_rows import SCHEMA, parse_rows, read_parquet, write_parquet
from study.training.regularized import parts
from study.training.schedule_file import ScheduleFile, read_schedule_file
from tests.test_mistakes import check

LINEAR = {"kind": "linear", "initial_rate": 0.0, "final_rate": 0.2}
PROB = {"kind": "probdropblock", "block": 4, "elsewhere": "none"}
ANNEALED = {"kind": "annealed", "until": 0.68}

WORDS: list[tuple[dict[str, Any], str]] = [
    ({"schedule": LINEAR}, "linear 0 to 0.2"),
    (LINEAR, "linear 0 to 0.2"),
    ({"schedule": LINEAR, "family": {"kind": "standard"}, "depth": {"kind": "uniform"}}, "linear 0 to 0.2"),
    (
        {"schedule": LINEAR, "family": PROB | {"elsewhere": "standard"}, "depth": ANNEALED},
        "linear 0 to 0.2, probdropblock 4, annealed until 0.68",
    ),
    ({"schedule": LINEAR, "family": PROB}, "linear 0 to 0.2, probdropblock 4 alone"),
    ({"schedule": LINEAR, "depth": {"kind": "rising"}}, "linear 0 to 0.2, rising over depth"),
    ({"schedule": LINEAR, "family": {"kind": "path"}}, "linear 0 to 0.2, path"),
    (
        {"schedule": LINEAR, "family": {"kind": "standard", "sites": ["attention_output", "mlp_output"]}},
        "linear 0 to 0.2, standard at attention_output, mlp_output",
    ),
    (
        {"schedule": LINEAR, "family": {"kind": "standard", "sites": [*NANOGPT_SITES, "mlp_hidden"]}},
        "linear 0 to 0.2, standard at nanoGPT's four, mlp_hidden",
    ),
    (
        {
            "schedule": LINEAR,
            "family": {"kind": "standout", "alpha": 0.5, "learned": True, "calibrated": False, "sampled": False},
        },
        "linear 0 to 0.2, standout 0.5 learned uncalibrated without sampling",
    ),
    (
        {"schedule": LINEAR, "family": {"kind": "mix", "drop": 0.5, "over_time": False, "elsewhere": "none"}},
        "linear 0 to 0.2, mix 0.5 by element alone",
    ),
    ({"schedule": {"kind": "reversed", "of": LINEAR}}, "reversed linear 0 to 0.2"),
]


@pytest.mark.parametrize(("record", "words"), WORDS)
def test_a_regularizer_in_words(record: dict[str, Any], words: str) -> None:
    assert describe(record) == words
    assert describe(Regularizer.from_dict(record).to_dict()) == words, "as a file or a row has it"
    assert describe(record if "kind" in record else record | {"arm": "top-1", "trial": 3}) == words


def test_a_suggestion_is_a_schedule_or_a_regularizer() -> None:
    assert as_regularizer(LINEAR) == {"schedule": LINEAR}
    assert as_regularizer({"schedule": LINEAR, "family": {"kind": "standard"}}) == {"schedule": LINEAR}
    assert as_regularizer({"schedule": LINEAR, "depth": ANNEALED}) == {"schedule": LINEAR, "depth": ANNEALED}


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "linear",
        {"rate": 0.1},
        {"schedule": "linear"},
        {"schedule": LINEAR, "family": "mix"},
        {"schedule": LINEAR, "family": {"block": 4}},
        {"schedule": LINEAR, "rates": {"kind": "uniform"}},
    ],
)
def test_a_space_that_suggests_none_is_told_what_to_return(bad: Any) -> None:
    with pytest.raises(UserError, match=r"the search space suggests .*it must return"):
        as_regularizer(bad)


@pytest.mark.parametrize("regularizer", [{"schedule": LINEAR}, {"schedule": LINEAR, "family": PROB, "depth": ANNEALED}])
def test_columns_hold_json_and_those_of_earlier_versions_a_schedule_alone(regularizer: dict[str, Any]) -> None:
    columns = as_columns(regularizer)
    assert list(columns) == ["schedule", "family", "depth", "size_rule"]
    assert parts_of_row(columns) == regularizer
    assert parts_of_row({"schedule": json.dumps(LINEAR), "family": None}) == {"schedule": LINEAR}
    assert parts_of({"schedule": LINEAR, "family": None, "trial": 3}) == {"schedule": LINEAR}


def test_an_evaluation_of_an_earlier_version_was_standard_and_uniform(tmp_path: Path) -> None:
    row = dict.fromkeys(SCHEMA.names) | {"trial": 1, "step": 0, "schedule": json.dumps(LINEAR)}
    defaults = {"family": '{"kind": "standard"}', "depth": '{"kind": "uniform"}', "size_rule": '{"kind": "width"}'}
    new = row | defaults | {"family": json.dumps(PROB), "depth": json.dumps(ANNEALED)}
    old = {name: row[name] for name in SCHEMA.names if name not in defaults}
    lines = [json.dumps(d).encode() for d in (old, new, {**old, "more": 1}, [1])] + [b"{"]
    found = list(parse_rows(lines))
    assert found == [row | defaults, new, None, None, None]
    assert [list(d) for d in found[:2] if d is not None] == [SCHEMA.names] * 2
    write_parquet([d for d in found if d is not None], tmp_path / "trials.parquet")
    assert read_parquet(tmp_path / "trials.parquet") == found[:2]


def test_a_plain_schedule_keeps_its_file_byte_for_byte() -> None:
    text = "format: dynamic-dropout-schedule/1\nschedule:\n  kind: linear\n  initial_rate: 0.0\n  final_rate: 0.2\n"
    assert ScheduleFile(**parts(Regularizer.from_dict({"schedule": LINEAR}))).to_yaml() == text
    of_defaults = {"schedule": LINEAR, "family": {"kind": "standard"}, "depth": {"kind": "uniform"}}
    assert ScheduleFile(**parts(Regularizer.from_dict(of_defaults))).to_yaml() == text


@pytest.mark.parametrize("more", [{"family": PROB}, {"depth": ANNEALED}, {"family": PROB, "depth": ANNEALED}])
def test_a_file_of_format_2(more: dict[str, Any], tmp_path: Path) -> None:
    file = ScheduleFile(
        **parts(Regularizer.from_dict({"schedule": LINEAR} | more)), training=PRESETS["smoke"].training, provenance={}
    )
    file.write(tmp_path / "file.yaml")
    d = yaml.safe_load((tmp_path / "file.yaml").read_text())
    assert list(d) == ["format", "schedule", *more, "training", "provenance"]
    assert d["format"] == "dynamic-dropout-schedule/2"
    assert {name: d[name] for name in more} == more
    assert read_schedule_file(tmp_path / "file.yaml") == file


def test_a_file_of_format_2_may_have_defaults_only(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump({"format": "dynamic-dropout-schedule/2", "schedule": LINEAR}))
    assert read_schedule_file(path).regularizer == Regularizer.from_dict({"schedule": LINEAR})


def edited(**changes: Any) -> dict[str, Any]:
    return {"format": "dynamic-dropout-schedule/2", "schedule": LINEAR, "family": PROB} | changes


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "family in format 1": (edited(format="dynamic-dropout-schedule/1"), "a family needs format dynamic-dropout-sched"),
    "depth in format 1": (
        {"format": "dynamic-dropout-schedule/1", "schedule": LINEAR, "depth": ANNEALED},
        "a depth needs format dynamic-dropout-schedule/2, got 'dynamic",
    ),
    "no schedule": ({"format": "dynamic-dropout-schedule/2", "family": PROB}, "no schedule"),
    "no mapping": (edited(family="mix"), "got 'mix'"),
    "an empty family": (edited(family=None), "got None"),
    "an unknown family": (edited(family={"kind": "dropconnect"}), "got 'dropconnect'"),
    "an unknown depth": (edited(depth={"kind": "middle"}), "got 'middle'"),
    "a missing parameter": (edited(family={"kind": "mix"}), "drop"),
    "an unknown parameter": (edited(family=PROB | {"rate": 0.1}), "'rate'"),
    "a block of 0": (edited(family=PROB | {"block": 0}), "got 0"),
    "half a block": (edited(family=PROB | {"block": 1.5}), "got 1.5"),
    "elsewhere off": (edited(family=PROB | {"elsewhere": False}), "got False"),
    "until 0": (edited(depth={"kind": "annealed", "until": 0}), "got 0"),
    "until text": (edited(depth={"kind": "annealed", "until": "0.68"}), "got '0.68'"),
    "a parameter of uniform": (edited(depth={"kind": "uniform", "until": 0.5}), "'until'"),
    "a block wider than a head": (edited(family=PROB | {"block": 64}), "64"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_regularizer_in_a_file_is_one_line(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    d, named = REFUSED[case]
    (folder / "bad.yaml").write_text(yaml.safe_dump(d))
    command: Callable[[], int] = lambda: train.main(  # noqa: E731
        ["--schedule", "bad.yaml", "--preset", "smoke", "--output", "out"]
    )
    check(command, named, folder, capsys)
