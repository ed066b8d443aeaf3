"""Sentences of the report on the winner, the grace period, parameters at the ends of their ranges, and failures."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from study.base.names import NATS, Outcome, amount
from study.engine.display import MEAN_OF_SEEDS, describe
from study.records.study_layout import StudyConfig
from study.report.edges import Edge
from study.report.parameters import FEW_IN_TOP, Importance
from study.report.rungs import Rung
from study.report.stopping_price import DRAWS, StoppingPrice
from study.report.trials import Trial, ranked
from study.training.built_in import LANGUAGE, task_name
from study.training.task_config import TaskConfig

FEW = 8
"""With fewer trials a rank correlation is only a hint."""
SAFE = 0.9
"""A grace period that keeps the best trial so often costs little."""
LEAST_SHARE = 0.05
"""Parameters that matter less are not listed within a family."""
STRONG, WEAK = 0.7, 0.4
"""From STRONG on, early losses predict the final order of the trials; below WEAK they do not."""


TEST = (
    "The p-values are of differences seed by seed, because a seed gives all arms the same weights and data. A few "
    "seeds tell little about how much one arm varies, so each arm's variance is moved towards the mean of all arms "
    "(Smyth 2004). Holm's correction raises the p-values for the number of arms: where no arm differs, about one "
    "study in twenty, or fewer, claims a difference."
)
"""How a verdict tests, for a reader who compares models."""


def count(n: int, thing: str) -> str:
    """Returns "1 trial", "2 trials"."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def ordinal(n: int) -> str:
    """Returns 1st, 2nd, 3rd, 4th."""
    return f"{n}{'th' if 10 <= n % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def joined(parts: Sequence[str]) -> str:
    """Returns "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def duration(seconds: float) -> str:
    """Returns a measured time: 40.1 s, 12.3 min, 11.0 h."""
    if seconds < 600:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 36_000 else f"{seconds / 3600:.1f} h"


def failure_reason(trial: Trial) -> str:
    """Returns why a trial failed, in a line."""
    lines = (trial.record.reason or "").strip().splitlines()
    return lines[0] if lines else "its reason was not kept"


def outcome(trial: Trial) -> str:
    """Returns how a trial ended."""
    return trial.record.outcome.value.replace("_", " ") if trial.record.outcome else "no end yet"


def trial_in_words(trial: Trial) -> str:
    """Returns the tooltip of a trial."""
    loss = f", best_val_loss {trial.best_val_loss:.4f}" if trial.steps else ""
    return f"trial {trial.number}: {describe(trial.regularizer)}{loss}, {outcome(trial)}"


def unconfirmed(trials: Sequence[Trial], expected: Mapping[int, float]) -> tuple[str, str]:
    """Returns what a search says before a confirmation: a sentence, and its worth.

    `expected` has the losses that completed trials would most likely have with a fresh seed.
    """
    best_first = ranked(trials)
    if not best_first:
        return _no_winner(trials)
    winner, n = best_first[0], len(best_first)
    article = "an" if winner.kind[0] in "aeiou" else "a"
    what = f"{article} {winner.kind} schedule"
    if winner.family_kind != "standard":
        what += f" of {winner.family_kind}"
    sentence = f"Not confirmed: {what} is the best of {n} completed trials, on one seed."
    if n == 1:
        sentence = f"Not confirmed: only one trial was completed, with {what}."
    worth = f"Trial {winner.number}, {describe(winner.regularizer)}, reached a best_val_loss of "
    worth += f"{winner.best_val_loss:.4f} "
    worth += f"at step {winner.best_step:,}. "
    if winner.mean is not None:
        sentence = f"Not confirmed: {what} has the lowest {MEAN_OF_SEEDS}, "
        sentence += f"of {count(sum(t.mean is not None for t in best_first), 'trial')} that have replicates."
        more = joined([f"{loss:.4f}" for loss in winner.record.replicates])
        worth += f"With other seeds it reached {more}, and the mean is {winner.mean:.4f}. "
        worth += "The study's own seed chose which trials have replicates: the mean is still a little too low. "
    elif n > 1:
        worth += f"The lowest of {n} is biased low: part of it is luck, and another seed would probably give "
        known = winner.number in expected
        worth += f"about {expected[winner.number]:.4f}, judged by similar trials. " if known else "a higher loss. "
        likely = min(expected, key=lambda number: expected[number], default=winner.number)
        if likely != winner.number:
            which = describe(next(t.regularizer for t in best_first if t.number == likely))
            worth += f"With another seed trial {likely}, {which}, is expected to be lower: {expected[likely]:.4f}. "
    constants = [t for t in best_first if t.kind == "constant" and t.is_plain]
    if n > 1 and winner in constants:
        worth += "It is a constant rate: no schedule of this study did better. "
    elif n > 1 and constants:
        gap = constants[0].best_val_loss - winner.best_val_loss
        gap_in_words = f"{abs(gap):.4f} {'more' if gap >= 0 else 'less'}"
        which = "" if winner.is_plain else " of standard dropout"
        worth += (
            f"The best constant rate{which} here, {constants[0].schedule['rate']:.3g} (trial {constants[0].number}), "
            f"reached {constants[0].best_val_loss:.4f}: {gap_in_words}, on the same seed. "
        )
    return sentence, worth + "Confirm it with new seeds:"


def _no_winner(trials: Sequence[Trial]) -> tuple[str, str]:
    failed = [t for t in trials if t.record.outcome is Outcome.FAILED]
    if not trials or len(failed) < len(trials):
        return "No answer yet: no trial has reached its end.", "There is no winner before a trial is completed."
    if len(failed) == 1:
        return "No answer: the only trial failed.", f"Reason: {failure_reason(failed[0])}"
    return f"No answer: all {len(failed)} trials failed.", f"Reason of the first: {failure_reason(failed[0])}"


def confirm_command(name: str, storage: str | None) -> str:
    """Returns the command that confirms a study."""
    return f"python -m study.confirm --study {name} --seeds 5 --top 3{_where(storage)}"


def resume_command(name: str, storage: str | None) -> str:
    """Returns the command that continues a study."""
    return f"python -m study.search --name {name} --resume{_where(storage)}"


def _where(storage: str | None) -> str:
    return f" --storage {shlex.quote(storage)}" if storage else ""


def trial_counts(trials: Sequence[Trial]) -> str:
    """Returns how many trials there are, and how each ended."""
    ends = Counter(outcome(t) for t in trials)
    order = (*(o.value.replace("_", " ") for o in Outcome), "no end yet")
    listed = [f"{ends[end]} {end}" for end in order if ends[end]]
    return count(len(trials), "trial") + (f": {joined(listed)}" if listed else "")


def grace_period(rungs: Sequence[Rung], evaluations: Sequence[Rung], scheduler: str) -> list[str]:
    """Returns a sentence for each rung: how well it ranks the trials, and whether to change the grace period."""
    said = []
    if scheduler != "asha":
        said.append(
            "This study stopped no trial early. ASHA with the preset's grace period would have compared trials here:"
        )
    for i, rung in enumerate(rungs):
        which = f"Step {rung.step:,}{' (the end of the grace period)' if i == 0 else ''}: "
        if rung.correlation is None:
            said.append(f"{which}no rank correlation can be given, for {count(rung.completed, 'completed trial')}.")
            continue
        which += (
            f"rank correlation {rung.correlation:.2f} with the end, over the {rung.completed} trials that reached it"
        )
        which += ". " if rung.completed >= FEW else ". So few trials make it only a hint. "
        if scheduler == "asha":
            which += f"ASHA stopped {rung.stopped} of the {rung.reached} trials that reached this step. "
        if rung.winner_rank is not None:
            which += f"The later winner ranked {ordinal(rung.winner_rank)} of {rung.reached} here. "
        said.append(which + _advice(rung, evaluations if i == 0 else []))
    return said


def stopping_price(prices: Sequence[StoppingPrice], grace_steps: int, unit: str = NATS) -> str:
    """Returns which grace period the prices speak for."""
    words = (
        f"Price of early stopping: {DRAWS} searches were simulated on the curves of the completed trials. Each draws "
        "its trials with replacement. "
    )
    safe = None
    for price in sorted(prices, key=lambda price: -price.grace_steps):  # a short one may have kept it by luck
        if price.kept < SAFE:
            break
        safe = price.grace_steps
    mine = next((price for price in prices if price.grace_steps == grace_steps), None)
    if mine is not None:
        words += (
            f"With the grace period of this study, {grace_steps:,} steps, the best trial reached its end in "
            f"{mine.kept:.0%} of them; the search lost {amount(mine.regret, unit)} on average and trained "
            f"{mine.cost:.0%} of the steps. "
        )
    if safe is None:
        return words + f"No grace period kept the best trial in {SAFE:.0%}: train without early stopping."
    return words + f"From a grace period of {safe:,} steps on, the best trial was kept in at least {SAFE:.0%}."


def _advice(rung: Rung, evaluations: Sequence[Rung]) -> str:
    assert rung.correlation is not None
    if rung.correlation < WEAK:
        return (
            "Losses here say little about the end. A longer grace period, or no early stopping, costs time but keeps "
            "schedules that start slowly."
        )
    if rung.correlation < STRONG:
        return "Losses here separate good trials from bad ones, but do not rank the good ones."
    since = None
    for earlier in sorted((r for r in evaluations if r.step < rung.step), key=lambda r: -r.step):
        if earlier.correlation is None or earlier.correlation < STRONG:
            break
        since = earlier.step
    already = f" They already do so from step {since:,} on." if since is not None else ""
    return f"Losses here rank the trials almost as the end does. There is no reason to wait longer.{already}"


def looks(sequential: Mapping[str, Any] | None, unit: str = NATS) -> str:
    """Returns how the seeds of a confirmation came in looks; empty if their number was fixed beforehand."""
    if not sequential:
        return ""
    seen = [str(look["seeds"]) for look in sequential["looks"]]
    said = f"The arms were judged after {joined(seen)} seeds, by a plan for at most {sequential['plan'][-1]}. "
    said += "An arm got no more seeds once it was shown to be better or worse, or to be hardly different. "
    said += f"The smallest gain that matters is {amount(sequential['smallest'], unit)}. "
    return said + {
        "shown": "The confirmation stopped because a schedule was shown to be better.",
        "excluded": "The confirmation stopped because no schedule can have such a gain.",
        "seeds": "All seeds were used.",
    }.get(sequential["stopped"], "It goes on: run study.confirm again.")


def same_schedules(same_as: Mapping[str, str]) -> str:
    """Returns the arms that were not trained, each with the arm that has the same schedule."""
    twins: dict[str, list[str]] = {}
    for twin, arm in same_as.items():
        twins.setdefault(arm, []).append(twin)
    return "; ".join(f"{joined(names)}, with the schedule of {arm}" for arm, names in twins.items())


def within_families(importances: Mapping[str, Importance | None]) -> list[tuple[str, str]]:
    """Returns for each family which of its parameters mattered, in words."""
    said = []
    for family, found in importances.items():
        if found is None:
            said.append((family, "too few completed trials, or they differ too little"))
        else:
            listed = [f"{name} {share:.2f}" for name, share in found.shares.items() if share >= LEAST_SHARE]
            hint = "" if found.top >= FEW_IN_TOP else "; a hint only"
            said.append((family, f"{joined(listed)}, of {count(found.completed, 'completed trial')}{hint}"))
    return said


def steered_arms(arms: Sequence[Mapping[str, Any]]) -> str:
    """Returns the arms of a verdict whose rate follows the validation loss that judges them."""
    return joined([str(arm["arm"]) for arm in arms if arm["schedule"]["kind"] == "val_loss"])


def edge_warning(edge: Edge) -> str:
    """Returns what a parameter at an end of its range means."""
    low = abs(edge.value - edge.low) <= abs(edge.high - edge.value)
    where = "is" if edge.value == (edge.low if low else edge.high) else "is close to"
    words = f"{edge.name} of the winner, {edge.value:.4g}, {where} the {'lower' if low else 'upper'} end of its range "
    words += f"({edge.low:.4g} to {edge.high:.4g}): "
    return words + ("no value lies beyond." if edge.natural else "the best value may lie outside. Widen the range.")


def trained(config: StudyConfig) -> str:
    """Returns what a study trains."""
    training = config.training
    if isinstance(training, TaskConfig):
        settings = "".join(f", {name} {value}" for name, value in training.settings.items())
        return f"Task {training.task} (SHA-256 {training.task_sha256[:12]}){settings}, {training.steps:,} steps"
    task = task_name(training)
    preset = f"Preset {config.preset}" if task == LANGUAGE else f"Task {task}, preset {config.preset}"
    return (
        f"{preset}: {training.n_layer} layers, {training.n_head} heads, {training.n_embd} channels, "
        f"context {training.block_size}, batch {training.batch_size}, {training.steps:,} steps; "
        f"corpus {training.corpus}"
    )
