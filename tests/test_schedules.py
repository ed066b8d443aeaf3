"""Dropout schedules: each kind against its formula, the one with feedback step by step, dicts and refusals."""

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.schedules import KINDS, Schedule, from_dict

repeatable = settings(deadline=None, derandomize=True, database=None)
PROGRESS = (0.0, 0.1, 0.25, 0.3, 0.5, 0.75, 0.9, 1.0)
VAL_LOSS = {"kind": "val_loss", "initial_rate": 0.4, "final_rate": 0.0, "factor": 0.5, "patience": 2, "min_delta": 0.5}
POINTS = [[0.1, 0.2], [0.5, 0.6], [0.75, 0.0]]


def ends(kind: str, initial_rate: float, final_rate: float, **more: float) -> dict[str, Any]:
    return {"kind": kind, "initial_rate": initial_rate, "final_rate": final_rate} | more


def rates_after(schedule: Schedule, losses: Iterable[float]) -> list[float]:
    """Returns the rate after each evaluation."""
    return [schedule.observe(loss) or schedule.rate(0.5) for loss in losses]


FORMULAS: list[tuple[dict[str, Any], Callable[[float], float]]] = [
    ({"kind": "constant", "rate": 0.3}, lambda t: 0.3),
    ({"kind": "constant", "rate": 0}, lambda t: 0.0),
    (ends("linear", 0.5, 0.1), lambda t: 0.5 - 0.4 * t),
    (ends("linear", 0.1, 0.5), lambda t: 0.1 + 0.4 * t),
    (ends("exponential", 0.5, 0.1, decay=3.0), lambda t: 0.1 + 0.4 / math.e ** (3 * t)),
    # The paper's p0 (pf / p0)^progress, and curriculum dropout's p (1 - exp(-10 progress)).
    (ends("exponential", 0.2, 0.0, decay=math.log(0.2 / 0.05)), lambda t: 0.2 * (0.05 / 0.2) ** t),
    (ends("exponential", 0.0, 0.4, decay=10.0), lambda t: 0.4 * (1 - math.exp(-10 * t))),
    (ends("cosine", 0.5, 0.1), lambda t: 0.3 + 0.2 * math.cos(math.pi * t)),
    (ends("cosine", 0.1, 0.5), lambda t: 0.3 - 0.2 * math.cos(math.pi * t)),
    ({"kind": "early", "peak_rate": 0.4, "cutoff": 0.5}, lambda t: 0.4 - 0.8 * t if t < 0.5 else 0.0),
    ({"kind": "early", "peak_rate": 0.4, "cutoff": 1.0}, lambda t: 0.4 * (1 - t)),
    ({"kind": "late", "peak_rate": 0.4, "cutoff": 0.5}, lambda t: 0.4 if t >= 0.5 else 0.0),
    ({"kind": "late", "peak_rate": 0.4, "cutoff": 1.0}, lambda t: 0.4 if t == 1 else 0.0),
    (
        {"kind": "piecewise", "points": POINTS},
        lambda t: 0.2 if t < 0.1 else 0.1 + t if t <= 0.5 else max(0.0, 0.6 - 2.4 * (t - 0.5)),
    ),
    ({"kind": "piecewise", "points": [[0.5, 0.3]]}, lambda t: 0.3),
    ({"kind": "reversed", "of": ends("linear", 0.5, 0.1)}, lambda t: 0.1 + 0.4 * t),
    (
        {"kind": "reversed", "of": {"kind": "early", "peak_rate": 0.4, "cutoff": 0.5}},
        lambda t: max(0.0, 0.8 * t - 0.4),
    ),
    (VAL_LOSS, lambda t: 0.4),  # without an evaluation it does not move
]


@pytest.mark.parametrize(("d", "formula"), FORMULAS)
def test_rate_follows_the_formula(d: dict[str, Any], formula: Callable[[float], float]) -> None:
    schedule = from_dict(d)
    assert [schedule.rate(t) for t in PROGRESS] == pytest.approx([formula(t) for t in PROGRESS], rel=1e-12, abs=1e-15)


def test_every_kind_has_a_formula() -> None:
    assert {d["kind"] for d, _ in FORMULAS} == set(KINDS)


def test_piecewise_meets_its_points() -> None:
    schedule = from_dict({"kind": "piecewise", "points": POINTS})
    assert [[progress, schedule.rate(progress)] for progress, _ in POINTS] == POINTS


def test_val_loss_step_by_step() -> None:
    evaluations = [  # (validation loss, rate after it)
        (3.0, 0.4),  # the first only sets the best
        (2.5, 0.4),  # below by min_delta, not by more: 1 in a row
        (2.25, 0.2),  # better; the count starts again
        (2.0, 0.2),  # 1 in a row
        (math.nan, 0.3),  # no better, 2 in a row: half of the way back, and the count starts again
        (2.0, 0.3),
        (2.0, 0.35),
        (2.0, 0.35),
        (1.5, 0.175),  # the best was still 2.25
        (9.0, 0.175),
        (1.25, 0.2875),
    ]
    losses, expected = zip(*evaluations, strict=True)
    assert rates_after(from_dict(VAL_LOSS), losses) == pytest.approx(expected, rel=1e-12)


def test_val_loss_moves_up_where_final_is_above_initial() -> None:
    schedule = from_dict(VAL_LOSS | {"initial_rate": 0.1, "final_rate": 0.5, "patience": 1, "min_delta": 0})
    assert rates_after(schedule, [3.0, 2.0, 1.0, 1.0]) == pytest.approx([0.1, 0.3, 0.4, 0.25])


def test_val_loss_takes_any_number_as_better_than_a_first_nan() -> None:
    assert rates_after(from_dict(VAL_LOSS), [math.nan, 1e9]) == [0.4, 0.2]


@repeatable
@given(
    losses=st.lists(st.floats(0, 4) | st.just(math.nan), min_size=1, max_size=30),
    stop=st.integers(0, 30),
    patience=st.integers(1, 4),
    min_delta=st.floats(0, 1),
    factor=st.floats(0.1, 0.9),
)
def test_val_loss_goes_on_from_its_state(
    losses: list[float], stop: int, patience: int, min_delta: float, factor: float
) -> None:
    d = VAL_LOSS | {"patience": patience, "min_delta": min_delta, "factor": factor}
    whole, first, second = from_dict(d), from_dict(d), from_dict(d)
    expected = rates_after(whole, losses)
    before = rates_after(first, losses[:stop])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + rates_after(second, losses[stop:]) == expected
    assert all(0 <= rate <= 0.4 for rate in expected)


def test_open_loop_schedule_ignores_evaluations_and_has_no_state() -> None:
    schedule = from_dict(ends("linear", 0.5, 0.1))
    assert rates_after(schedule, [1.0, 9.0]) == pytest.approx([0.3, 0.3])
    assert schedule.state_dict() == {}


rates = st.floats(0, 1, exclude_max=True)
shares = st.floats(0, 1, exclude_min=True)
points = st.lists(st.tuples(st.floats(0, 1), rates).map(list), min_size=1, max_size=6, unique_by=lambda p: p[0])
open_loop = st.recursive(
    st.one_of(
        st.fixed_dictionaries({"kind": st.just("constant"), "rate": rates}),
        st.builds(ends, st.sampled_from(["linear", "cosine"]), rates, rates),
        st.builds(ends, st.just("exponential"), rates, rates, decay=st.floats(1e-9, 1e3)),
        st.fixed_dictionaries({"kind": st.sampled_from(["early", "late"]), "peak_rate": rates, "cutoff": shares}),
        st.fixed_dictionaries({"kind": st.just("piecewise"), "points": points.map(sorted)}),
    ),
    lambda of: st.fixed_dictionaries({"kind": st.just("reversed"), "of": of}),
    max_leaves=3,
)
val_loss = st.fixed_dictionaries(
    {
        "kind": st.just("val_loss"),
        "initial_rate": rates,
        "final_rate": rates,
        "factor": st.floats(0, 1, exclude_min=True, exclude_max=True),
        "patience": st.integers(1, 100),
        "min_delta": st.floats(0, 1e6),
    }
)


@repeatable
@given(d=open_loop | val_loss, progress=st.floats(0, 1))
def test_dict_round_trip(d: dict[str, Any], progress: float) -> None:
    schedule = from_dict(d)
    assert schedule.to_dict() == d
    assert from_dict(schedule.to_dict()) == schedule
    assert from_dict(schedule.to_dict()).rate(progress) == schedule.rate(progress)
    assert 0 <= schedule.rate(progress) < 1


NO_NUMBERS = (math.nan, math.inf, -math.inf, True, False, "0.2", None, [0.2], 10**400)
NO_RATES = (*NO_NUMBERS, 1, 1.0, -0.1)
LINEAR = ends("linear", 0.5, 0.1)
EARLY = {"kind": "early", "peak_rate": 0.4, "cutoff": 0.5}


@pytest.mark.parametrize(
    ("d", "name", "values"),
    [
        ({"kind": "constant"}, "rate", NO_RATES),
        (LINEAR, "final_rate", NO_RATES),
        (VAL_LOSS, "initial_rate", NO_RATES),
        (EARLY, "peak_rate", NO_RATES),
        (LINEAR | {"kind": "exponential"}, "decay", (*NO_NUMBERS, 0, -1.5)),
        (EARLY, "cutoff", (*NO_NUMBERS, 0, 1.25)),
        (EARLY | {"kind": "late"}, "cutoff", (*NO_NUMBERS, 0, 1.25)),
        (VAL_LOSS, "factor", (*NO_NUMBERS, 0, 1, 0.0)),
        (VAL_LOSS, "patience", (math.nan, math.inf, True, "2", None, 0, -1, 1.5, 2.0)),
        (VAL_LOSS, "min_delta", (*NO_NUMBERS, -0.25)),
        ({"kind": "piecewise"}, "points", ([], "0.5", 0.5, None, [0.1, 0.5], [[0.1, 0.5, 0.7]], {0.1: 0.5})),
        ({"kind": "piecewise"}, "points", ([[0.1, 0.5], [0.1, 0.2]], [[0.5, 0.5], [0.1, 0.2]])),  # not rising
        ({"kind": "reversed"}, "of", (0.5, None, "linear", ["linear"])),
    ],
)
def test_value_is_refused_with_its_name(d: dict[str, Any], name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=name) as error:
            from_dict(d | {name: value})
        assert repr(value)[:15] in str(error.value)


@pytest.mark.parametrize(
    ("d", "words"),
    [
        ({"kind": "quadratic", "rate": 0.1}, ["kind", "'quadratic'"]),
        ({"rate": 0.1}, ["kind", "None"]),
        ({"kind": ["linear"]}, ["kind", "['linear']"]),
        ({"kind": "linear", "initial_rate": 0.5}, ["linear", "final_rate", "0.5"]),
        (LINEAR | {"decay": 3.0}, ["linear", "'decay'"]),
        (LINEAR | {3: 0.5}, ["linear", "3"]),
        (LINEAR | {None: 0.5}, ["linear", "None"]),
        (VAL_LOSS | {"state": 0.5}, ["val_loss", "'state'"]),
        ({"kind": "constant", "value": 0.5}, ["constant", "'value'"]),  # `rate` is its name in dicts
        ({"kind": "piecewise", "points": [[1.5, 0.5]]}, ["points", "1.5"]),
        ({"kind": "piecewise", "points": [[0.5, 1.0]]}, ["points", "1.0"]),
        ({"kind": "piecewise", "points": [[0.5, True]]}, ["points", "True"]),
        ({"kind": "piecewise", "points": [[math.nan, 0.5]]}, ["points", "nan"]),
        ({"kind": "reversed", "of": VAL_LOSS}, ["reversed", "val_loss"]),
        ({"kind": "reversed", "of": {"kind": "reversed", "of": VAL_LOSS}}, ["reversed", "val_loss"]),
        ({"kind": "reversed", "of": {"kind": "quadratic"}}, ["reversed", "'quadratic'"]),
        ([0.1, 0.2], ["[0.1, 0.2]"]),
        ("linear", ["'linear'"]),
        (None, ["None"]),
    ],
)
def test_refusal_names_what_was_given(d: Any, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        from_dict(d)
    assert [word for word in words if word not in str(error.value)] == []


def test_integer_of_any_length_is_named() -> None:
    # Python refuses to print integers of more than 4,300 digits.
    with pytest.raises(ValueError, match="rate"):
        from_dict({"kind": "constant", "rate": 10**5000})


def test_deep_nesting_is_refused() -> None:
    d: dict[str, Any] = {"kind": "constant", "rate": 0.1}
    for _ in range(20_000):  # deeper than Python's stack
        d = {"kind": "reversed", "of": d}
    with pytest.raises(ValueError, match="reversed"):
        from_dict(d)
