"""A regularizer's dict: what each part means, and how each mistake in it is refused."""

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import depth, families
from model.families import NANOGPT_SITES, SITES, control
from model.levels import LEVELS
from model.regularizer import Regularizer

repeatable = settings(derandomize=True, deadline=None, max_examples=200)
LINEAR = {"kind": "linear", "initial_rate": 0.0, "final_rate": 0.8}
VAL_LOSS = {"kind": "val_loss", "initial_rate": 0.4, "final_rate": 0.0, "factor": 0.5, "patience": 1, "min_delta": 0.0}
FAMILIES: list[dict[str, Any]] = [
    {"kind": "standard"},
    {"kind": "standard", "sites": ["attention_output", "mlp_output"]},
    {"kind": "standout", "alpha": 1.0, "learned": False, "calibrated": True, "elsewhere": "standard"},
    {
        "kind": "standout",
        "alpha": 0.0,
        "learned": True,
        "calibrated": False,
        "elsewhere": "none",
        "sampled": False,
    },
    {"kind": "dropblock", "block": 4, "elsewhere": "standard"},
    {"kind": "batchdropblock", "block": 1, "elsewhere": "none"},
    {"kind": "probdropblock", "block": 8, "elsewhere": "standard"},
    {"kind": "mix", "drop": 0.5, "over_time": True, "elsewhere": "none"},
    {"kind": "path"},
]
DEPTHS: list[dict[str, Any]] = [{"kind": k} for k in ("uniform", "rising", "falling")]
DEPTHS.append({"kind": "annealed", "until": 0.68})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("profile", DEPTHS)
def test_round_trip(family: dict[str, Any], profile: dict[str, Any]) -> None:
    d = {"schedule": LINEAR, "family": family, "depth": profile}
    regularizer = Regularizer.from_dict(d)
    is_plain = (family, profile) == ({"kind": "standard"}, {"kind": "uniform"})
    assert regularizer.is_plain == is_plain
    written = {key: d[key] for key in d if d[key] not in ({"kind": "standard"}, {"kind": "uniform"})}
    assert regularizer.to_dict() == written
    assert Regularizer.from_dict(regularizer.to_dict()) == regularizer


@pytest.mark.parametrize("kind", ["width", "same", "largest"])
def test_a_size_rule_is_a_part_that_is_written_unless_it_is_the_default(kind: str) -> None:
    regularizer = Regularizer.from_dict({"schedule": LINEAR, "size_rule": {"kind": kind}})
    written = {"schedule": LINEAR} | ({} if kind == "width" else {"size_rule": {"kind": kind}})
    assert regularizer.to_dict() == written
    assert regularizer.is_plain == (kind == "width")
    assert Regularizer.from_dict(regularizer.to_dict()) == regularizer


def test_a_schedules_dict_is_a_regularizer_of_standard_dropout_uniform_over_the_blocks() -> None:
    plain = Regularizer.from_dict(LINEAR)
    assert plain == Regularizer.from_dict({"schedule": LINEAR})
    assert plain == Regularizer.from_dict(
        {"schedule": LINEAR, "family": {"kind": "standard"}, "depth": {"kind": "uniform"}}
    )
    assert plain.is_plain
    assert plain.to_dict() == {"schedule": LINEAR}


@pytest.mark.parametrize(
    ("d", "whole"),
    [
        ({"kind": "standard", "sites": list(NANOGPT_SITES[::-1])}, {"kind": "standard"}),
        ({"kind": "standard", "sites": ["mlp_output", "attention_output"]}, FAMILIES[1]),
        ({"kind": "standout", "alpha": 1}, FAMILIES[2]),
        ({"kind": "standout", "alpha": 1, "sampled": True}, FAMILIES[2]),
        ({"kind": "dropblock", "block": 4}, FAMILIES[4]),
        ({"kind": "mix", "drop": 0.5, "elsewhere": "none"}, FAMILIES[7]),
    ],
)  # fmt: skip
def test_equal_families_give_equal_dicts(d: dict[str, Any], whole: dict[str, Any]) -> None:
    assert families.from_dict(d).to_dict() == whole
    assert families.from_dict(d) == families.from_dict(whole)


@pytest.mark.parametrize(
    ("d", "sites"),
    [
        ({"kind": "standard"}, NANOGPT_SITES),
        ({"kind": "standard", "sites": ["before_gelu"]}, ("before_gelu",)),
        ({"kind": "standout", "alpha": 1, "elsewhere": "none"}, ("mlp_hidden",)),
        ({"kind": "standout", "alpha": 1}, tuple(site for site in SITES if site != "before_gelu")),
        ({"kind": "probdropblock", "block": 4, "elsewhere": "none"}, ("attention_output", "mlp_output")),
        ({"kind": "dropblock", "block": 4}, NANOGPT_SITES),
        ({"kind": "mix", "drop": 0.5}, tuple(site for site in SITES if site != "mlp_hidden")),
        ({"kind": "path"}, ("attention_output", "mlp_output")),
    ],
)
def test_the_control_is_standard_dropout_at_the_same_sites(d: dict[str, Any], sites: tuple[str, ...]) -> None:
    family = families.from_dict(d)
    assert family.all_sites == sites
    assert control(family) == families.Standard(sites)


GRID = [i / 24 for i in range(25)]


@pytest.mark.parametrize("n_layer", [1, 2, 3, 6, 12])
@pytest.mark.parametrize("kind", ["uniform", "rising", "falling"])
def test_a_profile_is_exact_and_spends_the_same_budget(kind: str, n_layer: int) -> None:
    profile = depth.from_dict({"kind": kind})
    exact = {
        "uniform": [Fraction(1)] * n_layer,
        "rising": [Fraction(i + 1, n_layer) for i in range(n_layer)],
        "falling": [Fraction(n_layer - i, n_layer) for i in range(n_layer)],
    }[kind]
    mean = sum(exact) / n_layer
    for progress in GRID:
        weights = [profile.weight(i, n_layer, progress) for i in range(n_layer)]
        assert weights == [float(w / mean) for w in exact]
        assert sum(weights) == pytest.approx(n_layer)


@pytest.mark.parametrize("until", [Fraction(1), Fraction(1, 2), Fraction(3, 4)])
@pytest.mark.parametrize("n_layer", [1, 2, 4, 12])
def test_annealing_switches_block_after_block_off(n_layer: int, until: Fraction) -> None:
    profile = depth.from_dict({"kind": "annealed", "until": float(until)})
    for k in range(0, 97):
        progress = Fraction(k, 96)
        on = [progress < until * Fraction(i + 1, n_layer) for i in range(n_layer)]
        assert [profile.weight(i, n_layer, float(progress)) for i in range(n_layer)] == [float(w) for w in on]
    assert [profile.weight(i, n_layer, 0.0) for i in range(n_layer)] == [1.0] * n_layer


def test_rates_are_the_schedules_times_the_weights_and_below_1() -> None:
    plain = Regularizer.from_dict(LINEAR)
    rising = Regularizer.from_dict({"schedule": LINEAR, "depth": {"kind": "rising"}})
    for progress in GRID:
        rate = plain.schedule.rate(progress)
        assert plain.rate(progress) == rising.rate(progress) == rate
        assert plain.rates(progress, 4) == (rate,) * 4
        expected = [min(rate * 0.4 * (i + 1), 1 - 1 / LEVELS) for i in range(4)]
        assert rising.rates(progress, 4) == pytest.approx(expected)
    assert rising.rates(1.0, 4)[-1] == 1 - 1 / LEVELS


def test_evaluations_and_state_reach_the_schedule() -> None:
    d = {"schedule": VAL_LOSS, "family": {"kind": "path"}, "depth": {"kind": "rising"}}
    regularizer, again = Regularizer.from_dict(d), Regularizer.from_dict(d)
    for loss in (3.0, 2.0, 2.5):
        regularizer.observe(loss)
    assert regularizer.rate(0.5) == pytest.approx(0.3)
    again.load_state_dict(regularizer.state_dict())
    assert again.rates(0.5, 3) == regularizer.rates(0.5, 3) == pytest.approx((0.15, 0.3, 0.45))
    assert Regularizer.from_dict(regularizer.to_dict()).rate(0.5) == 0.4  # a state of its own


NO_NUMBERS = (math.nan, math.inf, True, "0.5", None, [0.5], 10**400)
STANDOUT, MIX, BLOCK = (
    {"kind": "standout", "alpha": 1.0},
    {"kind": "mix", "drop": 0.5},
    {"kind": "dropblock", "block": 4},
)
BAD_VALUES = [
    ({"kind": "standout"}, "alpha", (*NO_NUMBERS, -0.1)),
    (STANDOUT, "learned", (0, 1, "yes", None, [True])),
    (STANDOUT, "calibrated", (0, "true", None)),
    (STANDOUT, "sampled", (1, "no", None)),
    (STANDOUT, "elsewhere", ("off", "plain", False, None, 0, ["none"], "Standard", "")),
    ({"kind": "probdropblock"}, "block", (math.nan, True, "4", None, 0, -1, 2.0, 1.5, 2**31, [4])),
    (BLOCK | {"kind": "batchdropblock"}, "elsewhere", (False, "attention")),
    ({"kind": "mix"}, "drop", (*NO_NUMBERS, 0, 1, -0.5, 1.5)),
    (MIX, "over_time", (0, "false", None)),
    ({"kind": "standard"}, "sites", ([], (), "attention", None, True, {"attention": 1}, ["attention", "attention"],
        ["attention", "mlp"], ["Attention"], [None], [["attention"]], [0], 4)),
]  # fmt: skip


@pytest.mark.parametrize(("d", "name", "values"), BAD_VALUES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_value_is_refused_with_its_name(d: dict[str, Any], name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"{name} of a {d['kind']} family must be") as error:
            Regularizer.from_dict({"schedule": LINEAR, "family": d | {name: value}})
        assert repr(value)[:12] in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [*NO_NUMBERS, 0, 1.1, -1])
def test_a_value_of_a_depth_is_refused_with_its_name(value: Any) -> None:
    with pytest.raises(ValueError, match="until of an annealed depth must be a number in") as error:
        Regularizer.from_dict({"schedule": LINEAR, "depth": {"kind": "annealed", "until": value}})
    assert repr(value)[:12] in str(error.value)


def with_family(family: Any) -> dict[str, Any]:
    return {"schedule": LINEAR, "family": family}


def with_depth(profile: Any) -> dict[str, Any]:
    return {"schedule": LINEAR, "depth": profile}


@pytest.mark.parametrize(
    ("d", "words"),
    [
        (None, ["regularizer", "None"]),
        ("linear", ["regularizer", "'linear'"]),
        ([LINEAR], ["regularizer", "linear"]),
        ({}, ["needs a schedule", "{}"]),
        ({"family": STANDOUT}, ["needs a schedule", "standout"]),
        (LINEAR | {"schedule": LINEAR}, ["no key 'kind'", "schedule, family, depth"]),
        (LINEAR | {"family": STANDOUT}, ["linear schedule", "'family'"]),
        ({"schedule": LINEAR, "Family": STANDOUT}, ["no key 'Family'"]),
        ({"schedule": LINEAR, None: STANDOUT}, ["no key None"]),
        ({"schedule": {"schedule": LINEAR}}, ["kind of a schedule", "None"]),
        ({"schedule": None}, ["schedule", "None"]),
        ({"schedule": STANDOUT}, ["kind of a schedule", "'standout'", "val_loss"]),
        (with_family(None), ["family", "None"]),
        (with_family("standout"), ["family", "'standout'"]),
        (with_family({}), ["kind of a family", "None", "probdropblock"]),
        (with_family({"kind": "Standout"}), ["kind of a family", "'Standout'", "standout"]),
        (with_family({"kind": "rising"}), ["kind of a family", "'rising'"]),
        (with_family({"kind": ["mix"]}), ["kind of a family", "['mix']"]),
        (with_family({"kind": True}), ["kind of a family", "True"]),
        (with_family({"kind": "standout"}), ["standout family needs alpha"]),
        (with_family({"kind": "mix", "over_time": True}), ["mix family needs drop"]),
        (with_family({"kind": "batchdropblock"}), ["batchdropblock family needs block"]),
        (with_family({"kind": "path", "elsewhere": "none"}), ["path family", "no parameter 'elsewhere'", "takes none"]),
        (with_family({"kind": "standard", "elsewhere": "none"}), ["no parameter 'elsewhere'", "it takes sites"]),
        (with_family({"kind": "standard", "rate": 0.1}), ["no parameter 'rate'"]),
        (with_family(STANDOUT | {"beta": 1.0}), ["no parameter 'beta'", "alpha, learned, calibrated, elsewhere"]),
        (with_family(STANDOUT | {"works_in_eval": False}), ["no parameter 'works_in_eval'"]),
        (with_family(BLOCK | {"sites": ["attention"]}), ["no parameter 'sites'", "block, elsewhere"]),
        (with_family(MIX | {"drop_rate": 0.5}), ["no parameter 'drop_rate'"]),
        (with_family(MIX | {3: 0.5}), ["no parameter 3"]),
        (with_depth(None), ["depth", "None"]),
        (with_depth("rising"), ["depth", "'rising'"]),
        ({"schedule": LINEAR, "size_rule": "same"}, ["size_rule", "'same'"]),
        ({"schedule": LINEAR, "size_rule": {"kind": "depth"}}, ["kind of a size_rule", "width, same, largest"]),
        ({"schedule": LINEAR, "size_rule": {"kind": "same", "rate": 1}}, ["same size_rule has no parameter 'rate'"]),
        (with_depth({"kind": "linear"}), ["kind of a depth", "'linear'", "uniform, rising, falling, annealed"]),
        (with_depth({"kind": "annealed"}), ["annealed depth needs until"]),
        (with_depth({"kind": "rising", "until": 0.5}), ["rising depth has no parameter 'until'", "takes none"]),
        (with_depth({"kind": "uniform", "weight": 1}), ["no parameter 'weight'"]),
        (with_depth({"kind": "annealed", "until": 0.5, "layer": 1}), ["no parameter 'layer'"]),
    ],
)  # fmt: skip
def test_a_refusal_names_what_was_given_and_what_is_allowed(d: Any, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        Regularizer.from_dict(d)
    assert [word for word in words if word not in str(error.value)] == []
    assert "\n" not in str(error.value)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.floats()
    | st.sampled_from([*families.KINDS, *SITES, "none", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.none(), inner, max_size=3),
    max_leaves=4,
)
names = st.sampled_from(
    ["sites", "alpha", "learned", "calibrated", "sampled", "block", "drop", "over_time", "elsewhere", "until"]
)
kinds = st.sampled_from([*families.KINDS, *depth.KINDS])
dicts = st.builds(lambda kind, rest: {"kind": kind} | rest, kinds, st.dictionaries(names, anything, max_size=3))


@settings(repeatable, max_examples=1000)
@given(family=dicts | anything, profile=dicts | anything)
def test_any_dict_is_taken_or_refused_in_one_line(family: Any, profile: Any) -> None:
    try:
        regularizer = Regularizer.from_dict({"schedule": LINEAR, "family": family, "depth": profile})
    except ValueError as error:
        refusal = error
    else:
        assert Regularizer.from_dict(regularizer.to_dict()) == regularizer
        return
    assert type(refusal) is ValueError
    assert 20 < len(str(refusal)) < 400
    assert "\n" not in str(refusal)
