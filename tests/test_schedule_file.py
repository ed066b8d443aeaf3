"""Schedule files, and `python -m study.train`, which reads and writes them."""

import json
import struct
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from model.schedules import from_dict
from study import train
from study.base.errors import UserError, exit_status
from study.corpus import load_corpus
from study.training.config import PRESETS, TrainingConfig
from study.training.evaluation_rows import Labels
from study.training.run_folder import RunFolder
from study.training.schedule_file import ScheduleFile, read_schedule_file
from study.training.trainer import Trainer

HEAD = "format: dynamic-dropout-schedule/1\n"
LINEAR = "schedule: {kind: linear, initial_rate: 0.3, final_rate: 0.0}\n"
SMOKE = yaml.safe_dump({"training": vars(PRESETS["smoke"].training)})
KEYS = [
    "study", "trial", "kind", "schedule", "step", "progress", "dropout_rate", "train_loss", "val_loss",
    "best_val_loss", "learning_rate", "tokens_per_second", "train_seconds", "outcome", "seed", "family", "depth",
    "size_rule",
]  # fmt: skip


@settings(deadline=None, derandomize=True, database=None)
@given(
    rates=st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=2),
    decay=st.floats(1e-300, 1e300),
    learning_rate=st.floats(1e-29, 1e29),
    loss=st.floats(),
)
def test_floats_keep_their_bits(rates: list[float], decay: float, learning_rate: float, loss: float) -> None:
    schedule = {"kind": "exponential", "initial_rate": rates[0], "final_rate": rates[1], "decay": decay}
    training = vars(PRESETS["smoke"].training) | {"learning_rate": learning_rate}
    text = ScheduleFile(
        schedule=from_dict(schedule), training=TrainingConfig(**training), provenance={"best_val_loss": loss}
    ).to_yaml()
    read = yaml.safe_load(text)
    found = [read["schedule"][name] for name in ("initial_rate", "final_rate", "decay")]
    found += [read["training"]["learning_rate"], read["provenance"]["best_val_loss"]]
    assert [struct.pack("d", x) for x in found] == [struct.pack("d", x) for x in (*rates, decay, learning_rate, loss)]


def test_round_trip(tmp_path: Path) -> None:
    file = ScheduleFile(
        schedule=from_dict({"kind": "piecewise", "points": [[0.1, 1 / 3], [0.7, 0.0]]}),
        training=PRESETS["laptop"].training,
        provenance={
            "study": "Ophelia\u2019s: [1]",
            "trial": 12,
            "best_val_loss": 2.31,
            "created": "2026-11-22T10:00:00Z",
        },
    )
    file.write(tmp_path / "best_schedule.yaml")
    assert read_schedule_file(tmp_path / "best_schedule.yaml") == file
    assert [path.name for path in tmp_path.iterdir()] == ["best_schedule.yaml"]
    assert list(yaml.safe_load(file.to_yaml())) == ["format", "schedule", "training", "provenance"]


def test_file_written_by_hand_needs_a_format_and_a_schedule(tmp_path: Path) -> None:
    (tmp_path / "hand.yaml").write_text("# mine\n" + LINEAR + HEAD)
    file = read_schedule_file(tmp_path / "hand.yaml")
    assert file == ScheduleFile(schedule=from_dict({"kind": "linear", "initial_rate": 0.3, "final_rate": 0}))
    assert yaml.safe_load(file.to_yaml()) == yaml.safe_load(HEAD + LINEAR)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs study.train as the shell does; returns its exit status and the lines of its stderr."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    Path("linear.yaml").write_text(HEAD + LINEAR)

    def run(*argv: str) -> tuple[int, list[str]]:
        status = exit_status(lambda: train.main(argv))
        return status, capfd.readouterr().err.splitlines()

    return run


MALFORMED: dict[str, bytes | str] = {
    "is not YAML": HEAD + "schedule: {kind: [linear\n",
    "format must be": "format: something-else/1\n" + LINEAR,
    "format must be .*None": LINEAR,
    "format must be .*dynamic-dropout-schedule/one": "format: dynamic-dropout-schedule/one\n" + LINEAR,
    "format must be .*dynamic-dropout-schedule/0": "format: dynamic-dropout-schedule/0\n" + LINEAR,
    "newer": "format: dynamic-dropout-schedule/3\n" + LINEAR,
    "9999.*newer": "format: dynamic-dropout-schedule/" + "9" * 5000 + "\n" + LINEAR,
    "unknown key 'schedules'": HEAD + LINEAR + "schedules: []\n",
    "unknown key 3": HEAD + LINEAR + "3: []\n",
    "no schedule": HEAD,
    "schedule must be a mapping .*None": HEAD + "schedule:\n",
    "kind .*'linaer'": HEAD + LINEAR.replace("linear", "linaer"),
    "initial_rate .*1.5": HEAD + LINEAR.replace("0.3", "1.5"),
    "training config must be a mapping": HEAD + LINEAR + "training: 5\n",
    "needs n_layer": HEAD + LINEAR + "training: {}\n",
    "no field 'layers'": HEAD + LINEAR + SMOKE + "  layers: 4\n",
    "n_layer .*-1": HEAD + LINEAR + SMOKE.replace("n_layer: 1", "n_layer: -1"),
    "learning_rate .*nan": HEAD + LINEAR + SMOKE.replace("\n  learning_rate: 0.01", "\n  learning_rate: .nan"),
    "n_head, got 32 and 3": HEAD + LINEAR + SMOKE.replace("n_head: 2", "n_head: 3"),
    "seed": HEAD + LINEAR + SMOKE.replace("seed: 1337", "seed: " + "9" * 30),
    "provenance must be a mapping": HEAD + LINEAR + "provenance: 12\n",
    "mapping with the keys": "- format\n- schedule\n",
    "got a NoneType": "",
    "larger than": HEAD + LINEAR + "# " + "x" * 1_000_000,
    "not YAML.*": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "not YAML.*python": HEAD + LINEAR + "provenance: !!python/object/apply:os.system ['touch ran']\n",
    "not YAML: .*": HEAD + "schedule: " + "[" * 500,
}


@pytest.mark.parametrize(("words", "content"), MALFORMED.items(), ids=list(MALFORMED))
def test_malformed_file_is_refused_in_one_line(command: Callable[..., Any], words: str, content: bytes | str) -> None:
    path = Path("bad.yaml")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"(?s){words}"):
        read_schedule_file(path)
    status, err = command("--schedule", str(path), "--corpus", "text.txt")
    assert status == 2
    assert len(err) == 1
    assert err[0].startswith("error: ")
    assert "bad.yaml" in err[0]
    assert len(err[0]) < 1000
    assert not Path("ran").exists()


def test_missing_file_is_refused_in_one_line(command: Callable[..., Any]) -> None:
    status, err = command("--schedule", "missing.yaml")
    assert (status, len(err)) == (2, 1)
    assert "missing.yaml" in err[0]


def numbers(folder: str) -> list[dict[str, Any]]:
    """Returns the rows of metrics.jsonl without the times, which no two runs share."""
    rows = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in KEYS if key not in ("tokens_per_second", "train_seconds")} for row in rows]


def test_train_writes_what_repeats_it(command: Callable[..., Any]) -> None:
    argv = ("--schedule", "linear.yaml", "--preset", "smoke", "--corpus", "text.txt", "--steps", "35")
    status, err = command(*argv, "--seed", "5", "--output", "first")
    assert status == 0, err
    assert {path.name for path in Path("first").iterdir()} == {"model.safetensors", "config.yaml", "metrics.jsonl"}
    rows = [json.loads(line) for line in Path("first", "metrics.jsonl").read_text().splitlines()]
    assert all(list(row) == KEYS for row in rows)
    assert [row["step"] for row in rows] == [0, 10, 20, 30, 35]
    assert [row["dropout_rate"] for row in rows] == pytest.approx([0.3 * (1 - s / 35) for s in (0, 10, 20, 30, 35)])
    assert {(row["study"], row["trial"], row["kind"], row["outcome"], row["seed"]) for row in rows} == {
        (None, None, "linear", "completed", 5)
    }
    assert json.loads(rows[0]["schedule"]) == yaml.safe_load(LINEAR)["schedule"]
    training = yaml.safe_load(Path("first", "config.yaml").read_text())["training"]
    assert training == vars(PRESETS["smoke"].training) | {
        "steps": 35,
        "seed": 5,
        "corpus": str(Path("text.txt").absolute()),
    }

    torch.manual_seed(99)
    status, err = command("--schedule", "first/config.yaml", "--output", "second")
    assert status == 0, err
    assert numbers("second") == numbers("first")
    first, second = (load_file(f"{folder}/model.safetensors") for folder in ("first", "second"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_interrupted_run_is_resumed(command: Callable[..., Any]) -> None:
    argv = ("--schedule", "linear.yaml", "--preset", "smoke", "--corpus", "text.txt", "--output")
    assert command(*argv, "whole")[0] == 0
    file = read_schedule_file(Path("whole/config.yaml"))
    assert file.training is not None
    trainer = Trainer(file.training, file.schedule, load_corpus("text.txt"))
    list(islice(RunFolder(Path("part")).run(trainer, Labels()), 3))
    assert len(numbers("part")) == 3
    assert command(*argv, "part")[0] == 2  # without --resume
    status, err = command(*argv, "part", "--resume")
    assert status == 0, err
    assert numbers("part") == numbers("whole")
    assert {path.name for path in Path("part").iterdir()} == {"model.safetensors", "config.yaml", "metrics.jsonl"}


def test_finished_run_is_not_trained_again(command: Callable[..., Any]) -> None:
    argv = ("--schedule", "linear.yaml", "--preset", "smoke", "--corpus", "text.txt", "--output", "out")
    assert command(*argv)[0] == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    status, err = command(*argv, "--resume")
    assert status == 0, err
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before  # the times in it too


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--schedule", "linear.yaml"], "--preset"),  # written by hand, it has no training config
        (["--output", "full", "--preset", "smoke"], "--schedule"),
        (["--schedule", "linear.yaml", "--preset", "smoke", "--output", "full"], "full is not empty"),
        (["--schedule", "linear.yaml", "--preset", "smoke", "--output", "text.txt"], "text.txt is a file"),
        (["--schedule", "linear.yaml", "--preset", "smoke", "--output", "new", "--resume"], "new holds no run"),
        (["--schedule", "linear.yaml", "--preset", "smoke", "--resume"], "--output"),
        (["--schedule", "linear.yaml", "--preset", "huge"], "'huge'"),
        (["--schedule", "linear.yaml", "--preset", "smoke", "--steps", "0"], "steps must"),
        (["--schedule", "linear.yaml", "--preset", "smoke", "--block-size", "999"], "too short"),
        (["--schedule", "linear.yaml", "--preset", "smoke", "--corpus", "missing.txt"], "missing.txt"),
        (["--schedule", "other.yaml"], "SHA-256"),
    ],
)
def test_mistake_is_one_line(command: Callable[..., Any], argv: list[str], words: str) -> None:
    Path("full").mkdir()
    Path("full", "notes.txt").touch()
    corpus = [] if {"--corpus", "other.yaml"} & set(argv) else ["--corpus", "text.txt"]
    training = PRESETS["smoke"].training
    schedule = from_dict({"kind": "constant", "rate": 0.1})
    here = TrainingConfig(**(vars(training) | {"corpus": "text.txt"}))
    ScheduleFile(schedule=schedule, training=here, provenance={"corpus_sha256": "0" * 64}).write(Path("other.yaml"))
    status, err = command(*argv, *corpus)
    assert (status, len(err)) == (2, 1), err
    assert err[0].startswith("error: ")
    assert words in err[0]
    assert not Path("new").exists()


@pytest.mark.parametrize("other", [["--n-embd", "16"], ["--steps", "50"], ["--seed", "1"], ["--schedule", "flat.yaml"]])
def test_resume_of_another_config_is_refused(command: Callable[..., Any], other: list[str]) -> None:
    Path("flat.yaml").write_text(HEAD + "schedule: {kind: constant, rate: 0.3}\n")
    argv = ["--schedule", "linear.yaml", "--preset", "smoke", "--corpus", "text.txt", "--output", "out"]
    training = TrainingConfig(**(vars(PRESETS["smoke"].training) | {"corpus": str(Path("text.txt").absolute())}))
    trainer = Trainer(training, read_schedule_file(Path("linear.yaml")).schedule, load_corpus("text.txt"))
    list(islice(RunFolder(Path("out")).run(trainer, Labels()), 2))
    before = Path("out", "config.yaml").read_bytes()
    status, err = command(*argv, "--resume", *other)
    assert (status, len(err)) == (2, 1), err
    assert "out" in err[0]
    assert Path("out", "config.yaml").read_bytes() == before


def test_divergence_is_a_failure_not_a_mistake(command: Callable[..., Any]) -> None:
    argv = ("--schedule", "linear.yaml", "--preset", "smoke", "--corpus", "text.txt", "--learning-rate", "1e30")
    status, err = command(*argv)
    assert status == 1
    assert "diverged" in err[-1]
    assert "step 10" in err[-1]
