"""The controls of families: which there are, which arms a confirmation has, and what a control explains."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.regularizer import Regularizer
from model.schedules import Constant
from study.base.sealed_files import write_kept
from study.confirm.arms import Arm, CompletedTrial, arms, best_of_study, canonical_regularizer, is_constant_rate
from study.confirm.controls import best_of_families, controls_of, explain, family_arms
from study.confirm.decision import Comparison, compare, decide
from study.confirm.plan import ConfirmationConfig, ConfirmationFolder
from study.confirm.statistics import Difference, holm
from study.confirm.wording import added, explanation
from study.records.study_layout import StudyFolder
from study.training.config import PRESETS
from study.training.regularized import parts

RISING = {"kind": "linear", "initial_rate": 0.0, "final_rate": 0.2}
FOUR = ["embedding", "attention", "attention_output", "mlp_output"]


def regularizer(family: dict[str, Any] | None = None, depth: dict[str, Any] | None = None, **more: Any) -> Regularizer:
    d = {"schedule": more.get("schedule", RISING), "family": family, "depth": depth}
    return Regularizer.from_dict({name: part for name, part in d.items() if part is not None})


def standard(*sites: str) -> dict[str, Any]:
    return {"kind": "standard", "sites": list(sites)}


STANDOUT = {"kind": "standout", "alpha": 1.0, "elsewhere": "none"}
CONTROLS = [
    (regularizer(), []),
    (
        regularizer({"kind": "dropblock", "block": 4, "elsewhere": "none"}),
        [("control", regularizer(standard("attention_output", "mlp_output")))],
    ),
    (regularizer({"kind": "probdropblock", "block": 4, "elsewhere": "standard"}), [("control", regularizer())]),
    (regularizer({"kind": "path"}), [("control", regularizer(standard("attention_output", "mlp_output")))]),
    (
        regularizer(STANDOUT),
        [
            ("control", regularizer(standard("mlp_hidden"))),
            ("gate", regularizer(STANDOUT | {"sampled": False})),
        ],
    ),
    (regularizer(STANDOUT | {"sampled": False}), []),
    (
        regularizer(STANDOUT | {"elsewhere": "standard"}),
        [
            ("control", regularizer(standard(*FOUR, "mlp_hidden"))),
            ("gate", regularizer(STANDOUT | {"elsewhere": "standard", "sampled": False})),
        ],
    ),
    (
        regularizer({"kind": "mix", "drop": 0.5, "elsewhere": "none"}, {"kind": "annealed", "until": 0.68}),
        [
            ("control", regularizer(standard("before_gelu"), {"kind": "annealed", "until": 0.68})),
            ("uniform", regularizer({"kind": "mix", "drop": 0.5, "elsewhere": "none"})),
        ],
    ),
    (regularizer(standard("mlp_hidden")), [("control", regularizer())]),
    (regularizer(None, {"kind": "rising"}), [("uniform", regularizer())]),
]


@pytest.mark.parametrize(("of", "expected"), CONTROLS, ids=lambda value: "" if isinstance(value, list) else None)
def test_each_control_leaves_out_one_thing(of: Regularizer, expected: list[tuple[str, Regularizer]]) -> None:
    *found, last = [*controls_of(of), None]
    if found and found[-1].prefix == "constant":
        last = found.pop()
    assert [(control.prefix, control.regularizer) for control in found] == expected
    assert all(control.regularizer.schedule == of.schedule for control in found)
    assert (last is None) == (not expected), "each that is more than a schedule is compared with its largest rate"
    assert last is None or last.regularizer == replace(of, schedule=Constant(0.2))


def test_at_rate_0_every_regularizer_is_no_dropout() -> None:
    nothing = {"kind": "linear", "initial_rate": 0.0, "final_rate": 0.0}
    of = regularizer(STANDOUT, {"kind": "rising"}, schedule=nothing)
    assert canonical_regularizer(of) == regularizer(schedule={"kind": "constant", "rate": 0.0})
    assert is_constant_rate(of)
    assert not is_constant_rate(regularizer(STANDOUT, schedule={"kind": "constant", "rate": 0.2}))


def rows(trial: int, d: Mapping[str, Any], loss: float, outcome: str = "completed") -> list[dict[str, Any]]:
    columns = {name: json.dumps(part) for name, part in d.items()}
    return [
        columns
        | {
            "trial": trial,
            "step": step,
            "progress": step / 100,
            "dropout_rate": 0.1,
            "best_val_loss": loss + 1 - step / 100,
            "outcome": outcome,
        }
        for step in (0, 100)
    ]


STUDY = [
    *rows(0, regularizer().to_dict(), 2.5),
    *rows(1, regularizer(STANDOUT).to_dict(), 2.3),
    *rows(2, regularizer(STANDOUT | {"alpha": 0.5}).to_dict(), 2.2),
    *rows(3, regularizer({"kind": "path"}, {"kind": "rising"}).to_dict(), 2.4),
    *rows(4, regularizer({"kind": "mix", "drop": 0.5}).to_dict(), 1.0, "stopped_early"),
]


def test_a_study_of_families_confirms_the_best_of_each_with_its_controls() -> None:
    completed = best_of_study(STUDY)
    best = best_of_families(completed)
    assert [trial.trial for trial in best] == [2, 3, 0]
    chosen, same_as = arms(completed[:1], 0.15, 100, family_arms(best))
    found = {arm.name: arm.regularizer for arm in chosen}
    assert list(found) == [
        "best-constant", "no-dropout", "top-1", "control-standout", "gate-standout", "family-path", "control-path",
        "family-standard", "mean-constant", "top-1-reversed",
    ]  # fmt: skip
    winner = regularizer(STANDOUT | {"alpha": 0.5})
    assert found["top-1"] == winner
    assert same_as == {"family-standout": "top-1"}
    assert found["control-standout"] == regularizer(standard("mlp_hidden"))
    assert found["gate-standout"] == regularizer(STANDOUT | {"alpha": 0.5, "sampled": False})
    assert found["control-path"] == regularizer(standard("attention_output", "mlp_output"), {"kind": "rising"})
    assert found["mean-constant"].to_dict() == winner.to_dict() | {"schedule": {"kind": "constant", "rate": 0.1}}
    assert (found["top-1-reversed"].family, found["top-1-reversed"].rate(0.25)) == (winner.family, winner.rate(0.75))


def test_only_the_winner_is_trained_with_the_same_rate_in_all_layers_too() -> None:
    path = regularizer({"kind": "path"}, {"kind": "rising"})
    best = [CompletedTrial(trial=i, **parts(of), rates=()) for i, of in enumerate((path, regularizer(STANDOUT)))]
    assert "uniform-path" in [arm.name for arm in family_arms(best)]
    assert "uniform-path" not in [arm.name for arm in family_arms(best[::-1])]


def test_a_study_of_plain_schedules_has_no_arms_of_families() -> None:
    plain = [*rows(0, regularizer().to_dict(), 2.5), *rows(1, {"schedule": {"kind": "constant", "rate": 0.1}}, 2.4)]
    assert best_of_families(best_of_study(plain)) == []
    assert family_arms([]) == []


def test_a_confirmation_keeps_its_families_and_one_of_an_earlier_version_has_none(tmp_path: Path) -> None:
    completed = best_of_study(STUDY)
    config = ConfirmationConfig(
        study="study", corpus_sha256="", device="cpu", top=1, seeds=2, sweep_seeds=1, found=tuple(completed[:1]),
        tracking_uri=None, packed=False, training=PRESETS["smoke"].training,
        families=tuple(best_of_families(completed)),
    )  # fmt: skip
    folder = ConfirmationFolder(StudyFolder(tmp_path, "study"))
    folder.make()
    folder.write_config(config)
    assert folder.read_config() == config
    text = folder.config.read_text()
    old = text[: text.index("families:")]
    write_kept(folder.config, old)
    assert folder.read_config() == replace(config, families=())


def losses(**by_arm: float) -> dict[str, dict[int, float | None]]:
    """Losses of five seeds around a mean, with noise that differs between arms but never makes an order doubtful."""
    return {
        arm.replace("_", "-"): {seed: mean + 0.001 * ((3 * seed + place) % 5) for seed in range(5)}
        for place, (arm, mean) in enumerate(by_arm.items())
    }


COMPARED = [
    Arm(name="best-constant", meaning="", **parts(regularizer(schedule={"kind": "constant", "rate": 0.2}))),
    Arm(name="top-1", meaning="", **parts(regularizer(STANDOUT))),
    Arm(name="control", meaning="", **parts(regularizer(standard("mlp_hidden")))),
    Arm(name="gate", meaning="", **parts(regularizer(STANDOUT | {"sampled": False}))),
]
SITES, GATE = "standard dropout at the same sites", "the same gate without sampling"
EXPLAINED = {
    "the family itself": (losses(best_constant=2.5, top_1=2.3, control=2.4, gate=2.45), "better", "none"),
    "the sites": (losses(best_constant=2.5, top_1=2.3, control=2.3, gate=2.4), "better", SITES),
    "the gate": (losses(best_constant=2.5, top_1=2.3, control=2.4, gate=2.3), "better", GATE),
    "a loss that the sites explain": (losses(best_constant=2.3, top_1=2.5, control=2.5, gate=2.6), "worse", SITES),
    "no difference": (losses(best_constant=2.3, top_1=2.3, control=2.4, gate=2.4), "none", None),
}


@pytest.mark.parametrize("case", EXPLAINED)
def test_what_explains_a_difference(case: str) -> None:
    by_arm, against, explained_by = EXPLAINED[case]
    comparisons = compare(by_arm, "best-constant")
    (entry,) = [entry for entry in explain(COMPARED, by_arm, comparisons) if entry["arm"] == "top-1"]
    assert (entry["against_baseline"], entry["explained_by"], entry["family"]) == (against, explained_by, "standout")
    assert [(control["arm"], control["what"]) for control in entry["controls"]] == [("control", SITES), ("gate", GATE)]
    for control in entry["controls"]:
        difference = control["difference"]
        pairs = zip(by_arm["top-1"].values(), by_arm[control["arm"]].values(), strict=True)
        mean = sum(a - b for a, b in pairs if a is not None and b is not None) / 5
        assert difference["mean"] == pytest.approx(mean)
        p = difference["moderated"]["p"]
        assert p <= difference["p_holm"] <= min(1, 2 * p) + 1e-12, "of two comparisons"
        significant = difference["p_holm"] < 0.05
        assert control["claim"] == (("better" if mean < 0 else "worse") if significant else "none")
    words = explanation(entry, {arm.name: arm for arm in COMPARED})
    assert words.startswith("linear 0 to 0.2, standout 1 alone is ")
    named = {None: "No difference from the best constant rate was shown", "none": "None of these explains"}
    if explained_by in (SITES, GATE):
        assert words.endswith(f"is explained by {explained_by}.")
        assert f"no better than {explained_by} (" in words
    else:
        assert named[explained_by].lower() in words.lower()


def test_the_verdict_on_a_subject_says_what_its_controls_add() -> None:
    by_arm = losses(best_constant=2.5, top_1=2.3, control=2.3001, gate=2.4)
    comparisons = compare(by_arm, "best-constant")
    verdict = decide(COMPARED, comparisons, "best-constant")
    explained = explain(COMPARED, by_arm, comparisons)
    assert verdict.subject == COMPARED[1]
    assert added(verdict, explained) == f" It is no better than {SITES}, and better than {GATE}."
    assert added(replace(verdict, subject=COMPARED[0]), explained) == ""
    assert added(replace(verdict, subject=None), explained) == ""


def test_the_p_values_are_adjusted_for_all_comparisons_with_controls() -> None:
    by_arm = losses(best_constant=2.5, top_1=2.3, control=2.301, gate=2.2985)
    found = [control["difference"] for entry in explain(COMPARED, by_arm, {}) for control in entry["controls"]]
    assert len(found) == 2
    assert [d["p_holm"] for d in found] == holm([d["moderated"]["p"] for d in found])
    assert any(d["p_holm"] > d["moderated"]["p"] for d in found)
    assert found[0]["moderated"] == compare(by_arm, "control")["top-1"].to_dict()["moderated"]


def test_a_constant_rate_of_another_family_may_be_the_subject_of_the_verdict() -> None:
    constant = Arm(
        name="standout", meaning="", **parts(regularizer(STANDOUT, schedule={"kind": "constant", "rate": 0.2}))
    )
    rising = Arm(name="rising", meaning="", **parts(regularizer()))
    by_arm = losses(best_constant=2.5, standout=2.3, rising=2.4)
    verdict = decide([COMPARED[0], constant, rising], compare(by_arm, "best-constant"), "best-constant")
    assert verdict.subject == constant


def test_controls_that_were_not_trained_or_share_no_seed_explain_nothing() -> None:
    by_arm = losses(best_constant=2.5, top_1=2.3)
    assert explain(COMPARED[:2], by_arm, compare(by_arm, "best-constant")) == []
    by_arm |= {"control": {}, "gate": {9: 2.0}}
    assert [e for e in explain(COMPARED, by_arm, {}) if e["controls"]] == []
    one = {arm: {0: by_seed[0]} for arm, by_seed in losses(best_constant=2.5, top_1=2.3, control=2.4, gate=2.4).items()}
    unknown = {
        "top-1": Comparison(difference=Difference(n=1, mean=-0.2, sd=None, low=None, high=None, p=None), p_holm=None)
    }
    (entry, *_) = explain(COMPARED, one, unknown)
    assert (entry["against_baseline"], entry["explained_by"]) == ("unknown", None)
    assert "no test" in explanation(entry, {arm.name: arm for arm in COMPARED})
