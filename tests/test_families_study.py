"""A real study of all families: in MLflow, in files, repeated bit for bit, reported, and confirmed with controls."""

import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from model.families import KINDS
from model.regularizer import Regularizer
from study import export, train
from study.base.regularizers import depth_kind, family_kind, parts_of_row
from study.corpus import load_corpus
from study.engine.display import describe
from study.training.evaluation_rows import read_parquet
from study.training.run_folder import RunFolder
from study.training.schedule_file import read_schedule_file
from study.training.trainer import Trainer
from tests.conftest import Study, run, search
from tests.test_mistakes import check

pytestmark = pytest.mark.slow

TRIALS = 2 * len(KINDS)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of two trials of each family."""
    folder = tmp_path_factory.mktemp("families")
    more = ("--space", "families", "--trials", str(TRIALS), "--steps", "20", "--gpus", "0")
    return search(folder, "families", *more)


def folder_of(study: Study) -> Path:
    return study.folder / "studies" / study.name


def regularizers(study: Study) -> dict[int, dict[str, Any]]:
    rows = read_parquet(folder_of(study) / "trials.parquet")
    return {row["trial"]: parts_of_row(row) for row in rows}


def test_each_family_has_as_many_trials(families: Study) -> None:
    found = regularizers(families)
    assert sorted(found) == list(range(TRIALS))
    assert Counter(map(family_kind, found.values())) == dict.fromkeys(KINDS, 2)
    assert {"uniform", "rising", "annealed"} <= set(map(depth_kind, found.values()))


def test_files_rows_and_mlflow_tell_the_same(families: Study) -> None:
    for number, regularizer in regularizers(families).items():
        file = read_schedule_file(folder_of(families) / "trials" / f"{number:05d}" / "config.yaml")
        assert file.regularizer.to_dict() == regularizer
        plain = regularizer.keys() == {"schedule"}
        text = (folder_of(families) / "trials" / f"{number:05d}" / "config.yaml").read_text()
        assert text.startswith(f"format: dynamic-dropout-schedule/{1 if plain else 2}\n")
        params = families.trials()[number].data.params
        for part in ("family", "depth"):
            mine = {name.partition(".")[2]: value for name, value in params.items() if name.startswith(f"{part}.")}
            assert (mine != {}) == (part in regularizer)
            if mine:
                given = {name: yaml.safe_load(value) for name, value in mine.items()}
                regularizer_of_params = Regularizer.from_dict({"schedule": regularizer["schedule"], part: given})
                assert regularizer_of_params.to_dict()[part] == regularizer[part]
        assert params["schedule.kind"] == regularizer["schedule"]["kind"]


def test_what_is_printed_names_family_and_depth(families: Study) -> None:
    for number, regularizer in regularizers(families).items():
        assert re.search(rf"trial {number} +{re.escape(describe(regularizer))} ", families.output)
    assert "mix 0.5 alone, annealed until 0.68" in families.output


def losses(folder: Path) -> list[tuple[int, float, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(row["step"], row["train_loss"], row["val_loss"]) for row in map(json.loads, lines)]


def test_every_trial_is_repeated_bit_for_bit_and_its_best_weights_too(families: Study, tmp_path: Path) -> None:
    corpus = load_corpus("shakespeare")
    for number in regularizers(families):
        folder = RunFolder(folder_of(families) / "trials" / f"{number:05d}")
        assert train.main(["--schedule", str(folder.config), "--output", str(tmp_path / str(number))]) == 0
        assert losses(tmp_path / str(number)) == losses(folder.path), number
        file = read_schedule_file(folder.config)
        assert file.training is not None
        trainer = Trainer(file.training, file.regularizer, corpus)
        trainer.model = folder.load_best(corpus)  # a standout's evaluation needs the rate that it had then
        assert trainer.validate() == min(val_loss for _, _, val_loss in losses(folder.path)), number


def test_export_from_mlflow_alone_repeats_the_winner(families: Study, tmp_path: Path) -> None:
    uri = f"sqlite:///{families.folder / 'mlflow.db'}"
    done = run(["-m", "study.export", "--study", families.name, "--tracking-uri", uri], tmp_path)
    assert done.returncode == 0, done.stderr
    exported = yaml.safe_load((tmp_path / "best_schedule.yaml").read_text())
    kept = yaml.safe_load((folder_of(families) / "best_schedule.yaml").read_text())
    for d in (exported, kept):
        d["provenance"].pop("created")
    assert exported == kept
    done = run(["-m", "study.train", "--schedule", "best_schedule.yaml", "--output", "out"], tmp_path)
    assert done.returncode == 0, done.stderr
    winner = families.trials()[exported["provenance"]["trial"]]
    assert [(step, loss) for step, _, loss in losses(tmp_path / "out")] == families.history(winner, "val_loss")


BAD = {
    "format: dynamic-dropout-schedule/2\nschedule: {kind: constant, rate: 0.1}\nfamily: {kind: dropconnect}\n": (
        "kind of a family must be one of standard, standout, dropblock, batchdropblock, probdropblock, mix, path, "
        "got 'dropconnect'"
    ),
    "format: dynamic-dropout-schedule/2\nschedule: {kind: constant, rate: 0.1}\ndepth: {kind: annealed}\n": "until",
    "format: dynamic-dropout-schedule/1\nschedule: {kind: constant, rate: 0.1}\nfamily: {kind: path}\n": "needs format",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_regularizer_in_mlflow_is_one_line(
    text: str, families: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    winner = yaml.safe_load((folder_of(families) / "best_schedule.yaml").read_text())["provenance"]["run_id"]
    (artifact,) = families.folder.glob(f"mlruns/*/{winner}/artifacts/checkpoint/config.yaml")
    before = artifact.read_bytes()
    monkeypatch.chdir(tmp_path)
    arguments = ["--study", families.name, "--tracking-uri", f"sqlite:///{families.folder / 'mlflow.db'}"]
    try:
        artifact.write_text(text)
        check(lambda: export.main(arguments), BAD[text], tmp_path, capsys)
    finally:
        artifact.write_bytes(before)


def words(page: Path) -> str:
    text = re.sub(r"<(style|svg|script).*?</\1>", "", page.read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_the_report_compares_the_families(families: Study, tmp_path: Path) -> None:
    page = folder_of(families) / "report.html"
    text = words(page)
    assert {"families.svg", "depths.svg"} <= {path.name for path in (folder_of(families) / "figures").iterdir()}
    rows = read_parquet(folder_of(families) / "trials.parquet")
    best = {}
    for kind in KINDS:
        ends = [row for row in rows if family_kind(parts_of_row(row)) == kind and row["outcome"] == "completed"]
        best[kind] = min(ends, key=lambda row: (row["best_val_loss"], row["trial"]))
    for kind, row in best.items():
        loss, trial = f"{row['best_val_loss']:.4f}", f"trial {row['trial']}: {describe(parts_of_row(row))}"
        assert f"{kind} 2 {loss} {trial}" in text
    assert "itself" in text
    assert "Within a family" in text
    done = run(["-m", "study.report", "--study", families.name, "--tracking-uri",
                f"sqlite:///{families.folder / 'mlflow.db'}"], tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    alike = [re.sub(r"Made .*? by|--storage \S+", "", words(path)) for path in (page, tmp_path / "report.html")]
    assert alike[0] == alike[1], "from MLflow alone"


@pytest.fixture(scope="module")
def confirmed(families: Study) -> tuple[dict[str, Any], str]:
    """The verdict of a confirmation with a seed, and what was printed; tests/test_controls.py has the statistics."""
    command = ["-m", "study.confirm", "--study", families.name, "--top", "1", "--seeds", "1", "--sweep-seeds", "1"]
    done = run([*command, "--gpus", "0"], families.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder_of(families) / "confirmation" / "verdict.json").read_text()), done.stdout


def test_a_confirmation_has_the_best_of_each_family_and_its_controls(
    confirmed: tuple[dict[str, Any], str], families: Study
) -> None:
    verdict, printed = confirmed
    arms = {arm["arm"]: Regularizer.from_dict({k: arm[k] for k in ("schedule", "family", "depth") if k in arm})
            for arm in verdict["arms"]}  # fmt: skip
    names = set(arms) | verdict["same_as"].keys()
    assert {f"family-{kind}" for kind in KINDS} | {"best-constant", "no-dropout", "top-1"} <= names
    assert {f"control-{kind}" for kind in KINDS if kind != "standard"} | {"gate-standout"} <= names
    assert not [name for name in names if name.startswith("paper-")]
    resolve = lambda name: arms[verdict["same_as"].get(name, name)]  # noqa: E731
    for kind in KINDS:
        if kind != "standard":
            best, control = resolve(f"family-{kind}"), resolve(f"control-{kind}")
            assert (control.schedule, control.depth) == (best.schedule, best.depth)
            assert (control.family.kind, control.family.all_sites) == ("standard", best.family.all_sites)
    assert verdict["arms"][0]["arm"] == "best-constant"
    assert {arm["n"] for arm in verdict["arms"]} == {1}
    results = pq.read_table(folder_of(families) / "confirmation" / "runs.parquet").to_pylist()
    for row in results:
        assert Regularizer.from_dict(parts_of_row(row)) == arms[row["arm"]]
    children = {run.data.tags["arm"]: run for run in families.runs("confirmation_run")}
    assert children["gate-standout"].data.params["family.sampled"] == "false"
    assert not [name for name in children["best-constant"].data.params if name.startswith(("family.", "depth."))]
    for entry in verdict["explanations"]:
        assert entry["sentence"] in printed


def test_each_explanation_is_a_paired_difference(confirmed: tuple[dict[str, Any], str], families: Study) -> None:
    verdict, _ = confirmed
    losses: dict[str, dict[int, float]] = {}
    for row in pq.read_table(folder_of(families) / "confirmation" / "runs.parquet").to_pylist():
        losses.setdefault(row["arm"], {})[row["seed"]] = row["best_val_loss"]
    explained = {entry["arm"]: entry for entry in verdict["explanations"]}
    standout = verdict["same_as"].get("family-standout", "family-standout")
    assert [c["what"] for c in explained[standout]["controls"]][:2] == [
        "standard dropout at the same sites",
        "the same gate without sampling",
    ]
    for name, entry in explained.items():
        for control in entry["controls"]:
            differences = [losses[name][seed] - losses[control["arm"]][seed] for seed in losses[name]]
            assert control["difference"]["mean"] == pytest.approx(sum(differences))
            assert control["difference"]["n"] == 1
            assert control["claim"] == ("unknown" if differences[0] else "none"), "equal arms need no test"


def test_the_report_of_a_confirmation_shows_the_explanations(
    confirmed: tuple[dict[str, Any], str], families: Study, tmp_path: Path
) -> None:
    verdict, _ = confirmed
    page = tmp_path / "page.html"
    done = run(["-m", "study.report", "--study", families.name, "--output", str(page)], families.folder)
    assert done.returncode == 0, done.stderr
    text = words(page)
    assert "What explains the differences" in text
    for entry in verdict["explanations"]:
        assert f"{entry['arm']} : {entry['sentence']}" in text
    assert 'id="controls"' in page.read_text()
