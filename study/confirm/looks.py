"""The looks of one confirmation by name: what each showed, which arms are still in question, and why it stopped."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from study.base.errors import UserError
from study.confirm.arms import Arm
from study.confirm.decision import ALPHA, loss_table
from study.confirm.look_plan import shares
from study.confirm.look_rule import Course, State, begin, is_answered, look
from study.confirm.moderated_test import moderate

Losses = Mapping[str, Mapping[int, float | None]]


@dataclass(frozen=True, kw_only=True)
class ArmAtLook:
    """An arm after a look. Losses and differences are in nats; differences are the arm minus the baseline.

    Attributes:
        state: open, better, worse, or excluded (hardly different). All but open arms get no more runs.
        gain_excluded: whether a gain that matters is excluded.
        low, high: the interval at the level of the look; None without a test.
        p_looks: adjusted for the looks so far, and `p_holm` for the arms too.
    """

    arm: str
    state: str
    gain_excluded: bool
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    p_looks: float
    p_holm: float


@dataclass(frozen=True, kw_only=True)
class Look:
    """A look: `seeds` of each arm in question, the `level` of its tests, and the arms that it judged."""

    seeds: int
    level: float
    arms: tuple[ArmAtLook, ...]


@dataclass(frozen=True, kw_only=True)
class Looks:
    """The looks of a confirmation so far.

    Attributes:
        plan: the seeds of all looks, fixed beforehand.
        smallest: the smallest gain that matters, in nats; None before the first look.
        looks: those that took place.
        open: the arms still in question, without the baseline.
        p_holm: of each arm, adjusted for looks and arms; None without a test.
        stopped: shown (an arm is better), excluded (no arm whose rate changes can have a gain that matters), or seeds
            (all were used); None while the confirmation goes on.
    """

    plan: tuple[int, ...]
    smallest: float | None
    looks: tuple[Look, ...]
    open: tuple[str, ...]
    p_holm: Mapping[str, float | None]
    stopped: str | None

    @property
    def next_seeds(self) -> int:
        """Seeds of the next look."""
        return self.plan[len(self.looks)]

    def last(self, arm: str) -> ArmAtLook:
        """Returns an arm at its last look."""
        return [at for one in self.looks for at in one.arms if at.arm == arm][-1]

    def to_dict(self) -> dict[str, Any]:
        """Returns what verdict.json says about the looks."""
        return {
            "plan": list(self.plan),
            "smallest": self.smallest,
            "stopped": self.stopped,
            "open": list(self.open),
            "looks": [asdict(one) | {"arms": [asdict(arm) for arm in one.arms]} for one in self.looks],
        }


def follow(
    losses: Losses,
    arms: Sequence[Arm],
    baseline: str,
    seeds: Sequence[int],
    plan: tuple[int, ...],
    smallest: float | None,
    taken: int,
) -> Looks:
    """Judges the first looks of a confirmation from its runs alone: the same runs always give the same looks.

    Args:
        losses: by arm and seed; a look reads only the seeds that belong to it.
        seeds: in the order in which they are trained.
        smallest: the smallest gain that matters; None for the SD over seeds that the first look measures.
        taken: how many looks have their runs.
    """
    names = [arm.name for arm in arms if arm.name != baseline]
    candidates = np.array([not arm.is_constant_rate for arm in arms if arm.name != baseline])
    candidates = candidates if candidates.any() else np.ones_like(candidates)
    course, looks, stopped = begin(1, len(names)), list[Look](), None
    for n, share in list(zip(plan, shares(plan), strict=True))[:taken]:
        found = loss_table([losses[name] for name in (baseline, *names)], seeds[:n])
        if smallest is None:
            smallest = float(moderate(found).seed_sd)
        asked = course.state[0] == State.OPEN
        course = look(course, found[None], share, ALPHA, np.array([smallest]))
        at = tuple(_arm(course, i, name) for i, name in enumerate(names) if asked[i])
        looks.append(Look(seeds=n, level=ALPHA * share, arms=at))
        if is_answered(course, candidates)[0]:
            stopped = "shown" if (course.state[0, candidates] == State.BETTER).any() else "excluded"
            break
    if stopped is None and len(looks) == len(plan):
        stopped = "seeds"
    states = course.state[0]
    return Looks(
        plan=plan,
        smallest=smallest,
        looks=tuple(looks),
        open=tuple(name for name, state in zip(names, states, strict=True) if state == State.OPEN),
        p_holm={
            name: None if np.isnan(course.p[0, i]) and states[i] == State.OPEN else float(course.p_holm[0, i])
            for i, name in enumerate(names)
        },
        stopped=stopped,
    )


def follow_runs(
    losses: Losses,
    arms: Sequence[Arm],
    baseline: str,
    seeds: Sequence[int],
    plan: tuple[int, ...],
    smallest: float | None,
) -> Looks:
    """Judges the looks whose runs all exist: those of the baseline and of each arm that was in question.

    Raises:
        UserError: if the runs of the first look do not exist.
    """
    found = follow(losses, arms, baseline, seeds, plan, smallest, 0)
    while found.stopped is None and len(seeds) >= found.next_seeds:
        asked = set(seeds[: found.next_seeds])
        if not all(losses[name].keys() >= asked for name in (baseline, *found.open)):
            break
        found = follow(losses, arms, baseline, seeds, plan, smallest, len(found.looks) + 1)
    if not found.looks:
        raise UserError(f"--until-decided begins with {plan[0]} seeds of every arm: train them, or leave it out")
    return found


def _arm(course: Course, i: int, name: str) -> ArmAtLook:
    mean, half, p = (float(values[0, i]) for values in (course.mean, course.half_width, course.p))
    return ArmAtLook(
        arm=name,
        state=State(course.state[0, i]).name.lower(),
        gain_excluded=bool(course.excluded[0, i]),
        mean=None if np.isnan(mean) else mean,
        low=None if np.isnan(mean - half) else mean - half,
        high=None if np.isnan(mean + half) else mean + half,
        p=None if np.isnan(p) else p,
        p_looks=float(course.p_looks[0, i]),
        p_holm=float(course.p_holm[0, i]),
    )
