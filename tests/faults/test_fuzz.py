"""Whatever comes in by a file or a command line: a valid object, or one clear line."""

import io
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from study.base import cli
from study.base.errors import UserError, exit_status
from study.base.sealed_files import copy_of, write_kept
from study.records.study_layout import StudyConfig, StudyFolder
from study.search.options import SearchOptions
from study.training.config import PRESETS, TrainingConfig
from study.training.schedule_file import ScheduleFile, read_schedule_file

pytestmark = pytest.mark.faults

T = TypeVar("T")

CONFIG = StudyConfig(
    name="study", space="dynamic_dropout", preset="smoke", trials=3, sampler="tpe", scheduler="asha", seed=1,
    grace_steps=20, corpus_sha256="0" * 64, tracking_uri=None, optuna_storage=None, device="cpu",
    training=PRESETS["smoke"].training,
)  # fmt: skip
KEYS = [*CONFIG.to_dict(), *(f"training.{key}" for key in CONFIG.to_dict()["training"])]
FLAGS = ["--" + name.replace("_", "-") for name in SearchOptions.__dataclass_fields__]
WORDS = st.one_of(
    st.sampled_from([*FLAGS, "--nope", "-1", "0", "1", "1e999", "nan", "inf", "", "smoke", "tpe", "--", "="]), st.text()
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
SLOWLY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)


def one_line(read: Any) -> None:
    """Checks that something is either made or refused in one line, with exit status 2."""
    err = io.StringIO()
    with redirect_stderr(err):
        status = exit_status(lambda: read() and 0)
    assert status in (0, None, 2), err.getvalue()
    assert len(err.getvalue().splitlines()) == (1 if status == 2 else 0), err.getvalue()


def made_or_refused(read: Callable[[], T], named: str) -> T | None:
    """Returns what is read; None if it is refused, with a UserError that names something."""
    refusal = None
    try:
        return read()
    except UserError as error:
        refusal = str(error)
    assert named in refusal
    return None


@SLOWLY
@given(argv=st.lists(WORDS, max_size=8).filter(lambda argv: not {"-h", "--help"} & set(argv)))
def test_command_line(argv: list[str]) -> None:
    one_line(lambda: cli.parse(SearchOptions, "study.search", "", argv) and None)


@SLOWLY
@given(data=st.binary(max_size=300) | PLAIN.map(lambda d: yaml.safe_dump(d, allow_unicode=True).encode()))
def test_any_file_as_config_and_as_schedule(tmp_path: Path, data: bytes) -> None:
    folder = StudyFolder(tmp_path, "study")
    folder.make()
    with suppress(UnicodeDecodeError):
        write_kept(folder.config, data.decode())
    folder.config.write_bytes(data)
    for read in (folder.read_config, lambda: read_schedule_file(folder.config)):
        with pytest.raises(UserError) as error:
            read()
        assert len(str(error.value)) < 5000


@SLOWLY
@given(key=st.sampled_from(KEYS), value=PLAIN)
def test_config_with_any_value_in_one_place(tmp_path: Path, key: str, value: Any) -> None:
    folder = StudyFolder(tmp_path, "study")
    folder.make()
    d = CONFIG.to_dict()
    place = d["training"] if key.startswith("training.") else d
    place[key.rpartition(".")[2]] = value
    write_kept(folder.config, yaml.safe_dump(d))
    config = made_or_refused(folder.read_config, "study.yaml is damaged")
    if config is not None:
        assert isinstance(config.training, TrainingConfig)
        place_of_change = key.partition(".")[0]
        assert config == replace(CONFIG, **{place_of_change: getattr(config, place_of_change)})


@SLOWLY
@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    length=st.none() | st.integers(0, 2000),
)
def test_config_that_is_damaged_is_as_it_was(
    tmp_path: Path, changes: list[tuple[int, int]], length: int | None
) -> None:
    folder = StudyFolder(tmp_path, "study")
    folder.make()
    folder.write_config(CONFIG)
    content = bytearray(folder.config.read_bytes())
    for position, byte in changes:
        content[position % len(content)] = byte
    folder.config.write_bytes(content[:length])
    assert folder.read_config() == CONFIG
    copy_of(folder.config).write_bytes(content[:length])
    assert made_or_refused(folder.read_config, "study.yaml is damaged") in (None, CONFIG)


@SLOWLY
@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_schedule_file_with_any_bytes_changed(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    text = bytearray(
        b"format: dynamic-dropout-schedule/1\nschedule: {kind: linear, initial_rate: 0.31, final_rate: 0.0}\n"
    )
    for position, byte in flips:
        text[position % len(text)] = byte
    path = tmp_path / "schedule.yaml"
    path.write_bytes(bytes(text))
    assert isinstance(made_or_refused(lambda: read_schedule_file(path), str(path)), ScheduleFile | None)


@pytest.mark.parametrize(
    "text", ["a: &a [x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)),
             "!!python/object/apply:os.system ['echo it ran']", "x" * 2_000_000, "[" * 100_000]
)  # fmt: skip
def test_yaml_that_wants_more_than_to_be_read(tmp_path: Path, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    folder = StudyFolder(tmp_path, "study")
    folder.make()
    write_kept(folder.config, f"{text}\n")
    for read in (folder.read_config, lambda: read_schedule_file(folder.config)):
        with pytest.raises(UserError, match="larger than" if len(text) > 1_000_000 else ""):
            read()
    assert "it ran\n" not in capfd.readouterr().out
