"""What the report says in words: of the verdict, of what early losses told of the end, of edges and of failures."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from study.display import describe
from study.report.data import Edge, Rung, Trial, ranked
from study.tracking.names import Outcome

FEW = 8
"""Trials below which a rank correlation is a hint and no more."""
STRONG, WEAK = 0.7, 0.4
"""Rank correlations from which early losses are said to tell the end, and below which not."""


def count(n: int, thing: str) -> str:
    """Returns "1 trial", "2 trials"."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def ordinal(n: int) -> str:
    """Returns 1st, 2nd, 3rd, 4th."""
    return f"{n}{'th' if 10 <= n % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def joined(parts: Sequence[str]) -> str:
    """Returns "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def unconfirmed(trials: Sequence[Trial]) -> tuple[str, str]:
    """Returns what a search alone says: a sentence, and what it is worth."""
    best_first = ranked(trials)
    if not best_first:
        failed = [t for t in trials if t.note.outcome is Outcome.FAILED]
        if trials and len(failed) == len(trials):
            reason = (failed[0].note.reason or "for a reason that was not kept").splitlines()[0]
            whose = "Its reason" if len(failed) == 1 else "The first one's reason"
            return (
                f"No answer: {'the only trial' if len(failed) == 1 else f'all {len(failed)} trials'} failed.",
                f"{whose}: {reason}",
            )
        return "No answer yet: no trial has reached its end.", "There is no winner before a trial is completed."
    winner = best_first[0]
    sentence = (
        f"Not confirmed: {describe(winner.schedule)} is the best of {count(len(best_first), 'completed trial')}, on one "
        "seed."
    )
    worth = (
        f"Trial {winner.number} reached a best_val_loss of {winner.best_val_loss:.4f} at step {winner.best_step:,}. "
    )
    if len(best_first) > 1:
        worth += (
            f"The lowest of {len(best_first)} is biased low: part of it is luck, and with another seed it would most "
            "likely be higher. "
        )
    constants = [t for t in best_first if t.kind == "constant"]
    if winner.kind == "constant":
        worth += "It is a constant rate: no schedule of this study did better. "
    elif constants:
        gap = constants[0].best_val_loss - winner.best_val_loss
        worth += (
            f"The best constant rate here, {constants[0].schedule['rate']:.3g} (trial {constants[0].number}), reached "
            f"{constants[0].best_val_loss:.4f}: {gap:.4f} more, on the same seed. "
        )
    return sentence, worth + "Whether that holds, fresh seeds say:"


def confirm_command(name: str, storage: str | None) -> str:
    """Returns the command that confirms a study."""
    where = f" --storage {shlex.quote(storage)}" if storage else ""
    return f"python -m study.confirm --study {name} --seeds 5 --top 3{where}"


def resume_command(name: str, storage: str | None) -> str:
    """Returns the command that goes on with a study."""
    where = f" --storage {shlex.quote(storage)}" if storage else ""
    return f"python -m study.search --name {name} --resume{where}"


def counted(trials: Sequence[Trial]) -> str:
    """Returns how many trials there are, and how each ended."""
    outcomes = Counter(t.note.outcome for t in trials)
    ends = [
        f"{outcomes[outcome]} {words}"
        for outcome, words in (
            (Outcome.COMPLETED, "completed"),
            (Outcome.STOPPED_EARLY, "stopped early"),
            (Outcome.FAILED, "failed"),
            (None, "without an end yet"),
        )
        if outcomes[outcome]
    ]
    return count(len(trials), "trial") + (f": {joined(ends)}" if ends else "")


def grace_period(rungs: Sequence[Rung], everywhere: Sequence[Rung], scheduler: str) -> list[str]:
    """Returns what the rungs say about the grace period, a sentence or two a rung."""
    said = []
    if scheduler != "asha":
        said.append("This study stopped no trial early. ASHA, with the preset's grace period, would have looked here:")
    for i, rung in enumerate(rungs):
        which = f"Step {rung.step:,}{' (the end of the grace period)' if i == 0 else ''}: "
        if rung.correlation is None:
            said.append(
                f"{which}only {count(rung.completed, 'completed trial')} came by: no rank correlation can be given."
            )
            continue
        hint = "" if rung.completed >= FEW else ", few enough for it to be a hint and no more"
        words = (
            f"{which}rank correlation {rung.correlation:.2f} with the end, over the {rung.completed} trials that "
            f"reached it{hint}. "
        )
        if scheduler == "asha":
            words += f"{rung.stopped} of the {rung.reached} trials that came here were stopped. "
        if rung.winner_rank is not None:
            words += f"The winner was {ordinal(rung.winner_rank)} of {rung.reached} here. "
        said.append(words + _advice(rung, i, everywhere))
    return said


def _advice(rung: Rung, place: int, everywhere: Sequence[Rung]) -> str:
    assert rung.correlation is not None
    if rung.correlation < WEAK:
        return (
            "Losses here say little about the end: a longer grace period, or --scheduler none, would cost time and lose "
            "no schedule for starting slowly."
        )
    if rung.correlation < STRONG:
        return "Losses here say something about the end, but not which of two good trials is better."
    earlier = [r for r in everywhere if r.step < rung.step]
    firm: list[Rung] = []
    for r in reversed(earlier):
        if r.correlation is None or r.correlation < STRONG:
            break
        firm.append(r)
    if place == 0 and firm:
        return f"Losses rank the trials much as the end does, and do so from step {firm[-1].step:,} on: no reason to wait longer."
    return "Losses here rank the trials much as the end does: no reason to wait longer."


def edge_warning(edge: Edge) -> str:
    """Returns what an edge means."""
    end = edge.low if abs(edge.value - edge.low) <= abs(edge.high - edge.value) else edge.high
    where = "is" if edge.value == end else "is close to"
    words = f"{edge.name} of the winner, {edge.value:.4g}, {where} the {'lower' if end == edge.low else 'upper'} end of its "
    words += f"range ({edge.low:.4g} to {edge.high:.4g})"
    return words + (": there is nothing beyond." if edge.natural else ": the best may lie outside. Widen the range.")


def bare_arm(arm: Mapping[str, Any]) -> str:
    """Returns an arm of a verdict in a few words."""
    return f"{arm['arm']}: {describe(arm['schedule'])}"
