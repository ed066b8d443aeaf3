"""Runs made elsewhere by study.train, judged by study.confirm --runs: in a process that has no Ray and no MLflow."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from model.regularizer import Regularizer
from study import train
from study.confirm import __main__ as confirm
from study.confirm.results import EVALUATIONS, NUMBERS, RUNS, read_results, with_times
from study.confirm.statistics import paired_difference, summary
from study.corpus import load_corpus
from study.training.config import PRESETS
from study.training.evaluation import windows
from study.training.measures_file import Measures
from study.training.regularized import parts
from study.training.run_folder import RunFolder
from study.training.schedule_file import ScheduleFile
from tests.conftest import run
from tests.trained_runs import SCHEDULES, SEEDS, train_run

pytestmark = pytest.mark.slow  # two dozen short runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each schedule with each seed, fully evaluated, and the constant rates with a seed of their own."""
    folder = tmp_path_factory.mktemp("runs")
    for schedule in SCHEDULES:
        for seed in SEEDS:
            train_run(folder, schedule, seed, "--full-evaluation")
    for schedule in ("none", "constant-0.2", "constant-0.4"):
        train_run(folder, schedule, 101)
    return folder


@pytest.fixture(scope="module")
def judged(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("judged") / "confirmation"
    assert confirm.main(["--runs", str(trained), "--output", str(output)]) == 0
    return output


def verdict(folder: Path) -> dict:
    return json.loads((folder / "verdict.json").read_text())


def test_every_number_can_be_computed_again_from_the_tables(judged: Path) -> None:
    found, results = verdict(judged), read_results(judged)
    assert pq.read_table(judged / "evaluations.parquet").schema.equals(EVALUATIONS)
    assert pq.read_table(judged / "runs.parquet").schema.equals(RUNS)
    assert len(results.runs) == len(SCHEDULES) * len(SEEDS)
    by_arm = {
        arm["arm"]: {run["seed"]: run for run in results.runs if run["arm"] == arm["arm"]} for arm in found["arms"]
    }
    baseline = by_arm[found["baseline"]]
    for arm in found["arms"]:
        runs = by_arm[arm["arm"]]
        assert sorted(runs) == list(SEEDS)
        for name in NUMBERS:
            numbers = summary([run[name] for run in runs.values()])
            assert arm[name] == (numbers and vars(numbers)), name
        difference = paired_difference(
            {seed: run["best_val_loss"] for seed, run in runs.items()},
            {seed: run["best_val_loss"] for seed, run in baseline.items()},
        )
        if arm["arm"] == found["baseline"]:
            assert arm["difference"] is None
        else:
            plain = {k: v for k, v in arm["difference"].items() if k not in ("p_holm", "moderated")}
            assert plain == vars(difference)
            assert arm["difference"]["moderated"]["p"] <= arm["difference"]["p_holm"] <= 1
    assert with_times(results, found["baseline"]).runs == results.runs
    for row in results.runs:
        mine = [e for e in results.evaluations if (e["arm"], e["seed"]) == (row["arm"], row["seed"])]
        assert row["best_val_loss"] == min(e["val_loss"] for e in mine)
        assert row["best_full_val_loss"] == min(e["full_val_loss"] for e in mine)
        assert (row["final_val_loss"], row["train_seconds"]) == (mine[-1]["val_loss"], mine[-1]["train_seconds"])
        target = baseline[row["seed"]]["best_val_loss"]
        times = [e["train_seconds"] for e in mine if e["val_loss"] <= target]
        assert row["seconds_to_baseline"] == min(times, default=None)


def test_the_baseline_is_chosen_by_seeds_of_its_own(judged: Path) -> None:
    found, results = verdict(judged), read_results(judged)
    assert {run["seed"] for run in results.sweep} == {101}
    best = min(results.sweep, key=lambda run: run["best_val_loss"])
    (baseline,) = [arm for arm in found["arms"] if arm["arm"] == found["baseline"]]
    assert json.loads(best["schedule"]) == baseline["schedule"]
    assert not any("also chose" in warning for warning in found["warnings"])


def test_a_baseline_that_the_compared_runs_chose_is_warned_of(trained: Path, tmp_path: Path) -> None:
    compared = [str(path) for path in trained.iterdir() if path.is_dir() and not path.name.endswith("-101")]
    assert confirm.main(["--runs", *compared, "--output", str(tmp_path / "out")]) == 0
    warnings = verdict(tmp_path / "out")["warnings"]
    assert any("the compared runs also chose the best constant rate" in warning for warning in warnings)


def test_the_papers_schedule_is_found_among_the_runs(judged: Path) -> None:
    found = verdict(judged)
    assert [row["arm"] for row in found["paper"]["rows"]] == ["best-constant", "paper-linear"]
    assert [claim["claim"] for claim in found["paper"]["claims"]] == [
        "dynamic dropout accelerates training",
        "dynamic dropout lowers the final training loss",
        "dynamic dropout improves inference efficiency",
        "the validation-loss schedule is the best",
    ]
    assert "linear-0-to-0.33" in {arm["arm"] for arm in found["arms"]}


def test_a_run_of_a_family_is_explained_by_standard_dropout_at_its_sites(trained: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed in SEEDS:
        for name in ("constant-0.2", "none"):
            shutil.copytree(trained / f"{name}-{seed}", runs / f"{name}-{seed}")
    families = {
        "blocks": {"kind": "dropblock", "block": 4, "elsewhere": "none"},
        "control": {"kind": "standard", "sites": ["mlp_output", "attention_output"]},
    }
    for name, family in families.items():
        file = tmp_path / f"{name}.yaml"
        regularizer = Regularizer.from_dict({"schedule": SCHEDULES["constant-0.2"], "family": family})
        ScheduleFile(**parts(regularizer)).write(file)
        for seed in SEEDS:
            arguments = ["--schedule", str(file), "--preset", "smoke", "--steps", "30", "--seed", str(seed)]
            assert train.main([*arguments, "--output", str(runs / f"{name}-{seed}")]) == 0
    assert confirm.main(["--runs", str(runs), "--output", str(tmp_path / "out")]) == 0
    found = verdict(tmp_path / "out")
    blocks, control = "constant-0.2-dropblock-4-alone", "constant-0.2-standard-at-attention_output-mlp_output"
    assert [arm["arm"] for arm in found["arms"][2:]] == [blocks, control]
    assert found["subject"] in (blocks, control), "a constant rate of another family is a candidate"
    (entry,) = [entry for entry in found["explanations"] if entry["arm"] == blocks]
    (against,) = entry["controls"]
    losses = {(run["arm"], run["seed"]): run["best_val_loss"] for run in read_results(tmp_path / "out").runs}
    differences = [losses[blocks, seed] - losses[control, seed] for seed in SEEDS]
    assert (against["arm"], against["what"]) == (control, "standard dropout at the same sites")
    assert against["difference"]["mean"] == pytest.approx(sum(differences) / len(SEEDS))


def test_runs_without_full_evaluation_are_measured_afterwards(trained: Path, tmp_path: Path) -> None:
    plain = tmp_path / "runs"
    for schedule in ("constant-0.2", "linear"):
        for seed in SEEDS[:2]:
            shutil.copytree(trained / f"{schedule}-{seed}", plain / f"{schedule}-{seed}")
            (plain / f"{schedule}-{seed}" / "measures.json").unlink()
    assert confirm.main(["--runs", str(plain), "--output", str(tmp_path / "out")]) == 0
    found = {(run["arm"], run["seed"]): run for run in read_results(tmp_path / "out").runs}
    for (arm, seed), row in found.items():
        folder = trained / f"{'linear' if arm == 'paper-linear' else 'constant-0.2'}-{seed}"
        measures = Measures.read(folder)
        assert row["test_loss"] == measures.test_loss
        assert row["best_full_val_loss"] == dict(measures.full_val_loss)[row["best_step"]]
        assert row["train_loss_dropout_off"] is None
        assert row["sampling_tokens_per_second"] > 0
    assert any("--full-evaluation" in warning for warning in verdict(tmp_path / "out")["warnings"])


def test_a_run_that_did_not_end_is_missing_and_said_to_be(trained: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(trained, runs)
    metrics = runs / "linear-2" / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()[:-1]]
    metrics.write_text("".join(json.dumps(line | {"outcome": None}) + "\n" for line in lines))
    assert confirm.main(["--runs", str(runs), "--output", str(tmp_path / "out")]) == 0
    found = verdict(tmp_path / "out")
    (linear,) = [arm for arm in found["arms"] if arm["arm"] == "paper-linear"]
    assert (linear["n"], linear["failed"], linear["difference"]["n"]) == (1, 1, 1)
    assert linear["difference"]["p"] is None
    assert any(warning.startswith("paper-linear lacks seed 2") for warning in found["warnings"])


def test_only_an_earlier_verdict_on_the_same_runs_counts_as_a_look(trained: Path, tmp_path: Path) -> None:
    def looks(output: str, runs: list[Path]) -> list[int]:
        assert confirm.main(["--runs", *map(str, runs), "--output", str(tmp_path / output)]) == 0
        return verdict(tmp_path / output)["looks"]

    two = [trained / f"{schedule}-{seed}" for seed in SEEDS for schedule in ("constant-0.2", "linear")]
    assert looks("out", two[:2]) == []
    assert looks("out", two) == [1], "one more seed of the same schedules"
    others = [trained / f"{schedule}-1" for schedule in ("constant-0.4", "rising")]
    assert looks("out", others) == [], "the folder had a verdict on other schedules"


def test_runs_are_judged_at_looks_as_far_as_they_go(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.test_mistakes import check

    monkeypatch.chdir(tmp_path)
    for schedule in ("constant-0.2", "linear"):
        for seed in SEEDS:
            shutil.copytree(trained / f"{schedule}-{seed}", tmp_path / "runs" / f"{schedule}-{seed}")
    capsys.readouterr()
    command = ["--runs", "runs", "--output", "out", "--until-decided", "--max-seeds", "5", "--smallest", "0.00001"]
    check(lambda: confirm.main(command), "begins with 3 seeds of every arm", tmp_path, capsys)
    for schedule in ("constant-0.2", "linear"):
        shutil.copytree(train_run(tmp_path, schedule, 3, "--full-evaluation"), tmp_path / "runs" / f"{schedule}-3")
    assert confirm.main(command) == 0
    assert "look at 3 seeds; in question: paper-linear. Next look: 5 seeds." in capsys.readouterr().out
    looks = verdict(tmp_path / "out")["sequential"]
    assert (looks["plan"], looks["stopped"], looks["open"]) == ([3, 5], None, ["paper-linear"])
    assert [look["seeds"] for look in looks["looks"]] == [3]


def test_power_is_measured_from_runs(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert confirm.main(["--runs", str(trained), "--output", str(tmp_path / "out"), "--power"]) == 0
    printed = capsys.readouterr().out
    assert "measured from the runs that exist; the baseline and 4 arms" in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["power.svg"]
    assert confirm.main(["--runs", str(trained), "--output", str(tmp_path / "out"), "--power", "--seed-sd", "0.5"]) == 0
    assert "seed SD 0.5000 nats, given" in capsys.readouterr().out


def test_judging_imports_no_ray_mlflow_or_optuna(trained: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from study.confirm.__main__ import main; status = main(sys.argv[1:]);"
        "assert not {'ray', 'mlflow', 'optuna'} & sys.modules.keys(); sys.exit(status)"
    )
    done = run(["-c", code, "--runs", str(trained), "--output", "out"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "best constant rate" in done.stdout
    assert "Claim: dynamic dropout accelerates training." in done.stdout


def test_the_test_loss_is_that_of_the_best_weights_over_all_of_the_test_half(trained: Path) -> None:
    folder, corpus = RunFolder(trained / "rising-1"), load_corpus("shakespeare")
    model = folder.load_best(corpus)
    config = replace(PRESETS["smoke"].training, val_share=1.0)
    x, y = windows(corpus.split("test"), config, torch.device("cpu"))
    with torch.no_grad():
        losses = [model(a.long(), b.long())[1] * (b != -1).sum() for a, b in zip(x.split(64), y.split(64), strict=True)]
    total = float(sum(losses) / (y != -1).sum())
    assert Measures.read(folder.path).test_loss == pytest.approx(total, abs=1e-5)


def _damage(kind: str, runs: Path) -> None:
    config = runs / "linear-1" / "config.yaml"
    if kind in ("steps", "corpus"):
        d = yaml.safe_load(config.read_text())
        d["training"][kind] = {"steps": 31, "corpus": "/elsewhere/text.txt"}[kind]
        config.write_text(yaml.safe_dump(d))
    if kind in ("corpus", "text"):
        path = runs / "linear-1" / "measures.json"
        d = json.loads(path.read_text())
        path.write_text(json.dumps(d | {"corpus_sha256": None if kind == "corpus" else "0" * 64}))
    if kind == "twice":
        shutil.copytree(runs / "linear-1", runs / "again")
    if kind == "no constant":
        for path in [*runs.glob("constant*"), *runs.glob("none*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if kind == "no seeds of the schedules":
        for path in (path for seed in SEEDS for path in runs.glob(f"[cn]*-{seed}")):
            shutil.rmtree(path)
    if kind == "damaged measures":
        (runs / "linear-1" / "measures.json").write_text("{")
    if kind == "damaged metrics":
        (runs / "linear-1" / "metrics.jsonl").write_text("{")
    if kind == "no training":
        config.write_text("format: dynamic-dropout-schedule/1\nschedule: {kind: constant, rate: 0.1}\n")
    if kind == "output is a file":
        (runs.parent / "out").touch()


REFUSED = {
    "steps": "differ in steps (30 and 31)",
    "corpus": "learned from different texts",
    "text": "learned from different texts",
    "twice": "are both linear 0.2 to 0 with seed 1",
    "no constant": "no run with a constant rate",
    "no seeds of the schedules": "no run with a constant rate",
    "damaged measures": "measures.json is damaged",
    "damaged metrics": "metrics.jsonl is damaged",
    "no training": "no training config",
    "output is a file": "out cannot be made",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_runs_that_cannot_be_compared(
    kind: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.test_mistakes import check

    runs = tmp_path / "runs"
    shutil.copytree(trained, runs)
    _damage(kind, runs)
    monkeypatch.chdir(tmp_path)
    check(lambda: confirm.main(["--runs", "runs", "--output", "out"]), REFUSED[kind], tmp_path, capsys)
