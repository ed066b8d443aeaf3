"""What a person sees of a study while it runs, and the table at its end."""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from model.families import NANOGPT_SITES
from study.base.names import Key, Outcome
from study.base.output import printable
from study.base.ranking import MORE_SEEDS
from study.base.regularizers import DEPTH, FAMILY, SCHEDULE, SIZE_RULE, parts_of
from study.engine.run_source import Ending
from study.engine.run_spec import RunSpec

MEAN_OF_SEEDS = f"mean of {1 + MORE_SEEDS} seeds"
"""The column of a table that has it where there are replicates."""


def describe(record: Mapping[str, Any]) -> str:
    """Returns a regularizer in a few words: linear 0 to 0.2, probdropblock 4, annealed until 0.68.

    Args:
        record: has a regularizer's parts, and perhaps more keys; or is a schedule's dict. Defaults are not named.
    """
    if SCHEDULE not in record:
        return _schedule(record)
    parts = parts_of(record)
    words = [
        _schedule(parts[SCHEDULE]),
        _family(parts.get(FAMILY, {})),
        _depth(parts.get(DEPTH, {})),
        _SIZE_RULES.get(parts.get(SIZE_RULE, {}).get("kind"), ""),
    ]
    return ", ".join(word for word in words if word)


def _family(family: Mapping[str, Any]) -> str:
    """Returns a family in words: probdropblock 4, standout 1 learned alone. No words are for the default."""
    words = []
    for key, value in family.items():
        if key == "sites":
            words.append(f"at {_sites(value)}")
        elif key == "elsewhere":
            words += ["alone"] if value == "none" else []
        elif key in _SWITCHES:
            words += [word] if (word := _SWITCHES[key][bool(value)]) else []
        else:
            words.append(f"{value:.3g}" if isinstance(value, float) else str(value))
    return " ".join(words)


def _sites(sites: Sequence[str]) -> str:
    if set(sites) >= set(NANOGPT_SITES):
        return ", ".join(["nanoGPT's four", *(site for site in sites if site not in NANOGPT_SITES)])
    return ", ".join(sites)


def _depth(depth: Mapping[str, Any]) -> str:
    """Returns a depth in words: annealed until 0.68, rising over depth. No words are for the default."""
    if "until" in depth:
        return f"{depth['kind']} until {depth['until']:.3g}"
    return f"{depth['kind']} over depth" if depth else ""


def _schedule(schedule: Mapping[str, Any]) -> str:
    kind, rest = schedule["kind"], {key: value for key, value in schedule.items() if key != "kind"}
    if kind == "reversed":
        return f"reversed {_schedule(rest['of'])}"
    words = [kind]
    if "initial_rate" in rest:
        words.append(f"{rest.pop('initial_rate'):.3g} to {rest.pop('final_rate'):.3g}")
    elif "rate" in rest:
        words.append(f"{rest.pop('rate'):.3g}")
    details = ", ".join(f"{key} {value:.3g}" for key, value in rest.items() if isinstance(value, int | float) and value)
    return " ".join(words) + (f" ({details})" if details else "")


_SIZE_RULES = {"same": "same rate for all sizes", "largest": "on the largest size only"}
_SWITCHES = {
    "learned": ("", "learned"),
    "calibrated": ("uncalibrated", ""),
    "sampled": ("without sampling", ""),
    "over_time": ("by element", ""),
}
"""Parameters of families that are true or false, and the words for each."""


class Display:
    """The live line of a study on a terminal, and a line a trial; only the latter where there is no terminal."""

    def __init__(
        self,
        console: Console,
        trials: int,
        steps: int,
        ended: int = 0,
        width: int = 10,
    ) -> None:
        self.console, self._width = console, width
        self._trials, self._steps, self._before = trials, steps, ended
        self._count: Counter[Outcome] = Counter()
        self._reached: dict[Key, int] = {}  # step of each run that goes on
        self._losses: dict[Key, float] = {}
        self._best: tuple[float, str] | None = None
        self._started = time.monotonic()
        self._live = Progress(
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._live.add_task("starting workers", total=trials * steps, completed=ended * steps)

    def __enter__(self) -> "Display":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def run_started(self, spec: RunSpec) -> None:
        """Notes a run that begins."""
        self._reached[spec.key] = 0
        self._refresh()

    def run_progressed(self, spec: RunSpec, result: Mapping[str, Any]) -> None:
        """Notes an evaluation."""
        self._reached[spec.key], self._losses[spec.key] = result["step"], result["best_val_loss"]
        if self._best is None or result["best_val_loss"] < self._best[0]:
            self._best = (result["best_val_loss"], spec.title)
        self._refresh()

    def run_ended(self, spec: RunSpec, ending: Ending) -> None:
        """Notes and prints how a run ended."""
        step = self._reached.pop(spec.key)
        self._count[ending.outcome] += 1
        loss = f"best_val_loss {self._losses[spec.key]:.4f}" if spec.key in self._losses else ""
        words = {
            Outcome.COMPLETED: "completed",
            Outcome.STOPPED_EARLY: f"stopped early at step {step}",
            Outcome.FAILED: f"failed: {ending.reason}",
        }[ending.outcome]
        self._print(f"{spec.title:{self._width}s} {describe(spec.regularizer):<44s} {loss:22s} {words}")
        self._refresh()

    def _print(self, line: str) -> None:
        self.console.print(printable(line), highlight=False, markup=False, soft_wrap=True)

    def _refresh(self) -> None:
        ended = self._before + sum(self._count.values())
        done = ended * self._steps + sum(self._reached.values())
        share = (done - self._before * self._steps) / max(1, (self._trials - self._before) * self._steps)
        elapsed = time.monotonic() - self._started
        left = _clock(elapsed * (1 - share) / share) if share > 0.02 else "..."
        best = f"  best {self._best[0]:.4f} ({self._best[1]})" if self._best else ""
        words = [f"{len(self._reached)} running", f"{self._count[Outcome.COMPLETED]} done"]
        if self._before:
            words.append(f"{self._before} ended before")
        words.append(f"{self._count[Outcome.STOPPED_EARLY]} stopped early")
        if self._count[Outcome.FAILED]:
            words.append(f"{self._count[Outcome.FAILED]} failed")
        self._live.update(self._task, completed=done, description=f"{', '.join(words)}{best}  {left} left")


@dataclass(frozen=True, kw_only=True)
class CompletedTrial:
    """A row of the table at the end of a search.

    `expected_loss` is what a fresh seed will most likely give, None if too little is known. `mean` is the mean
    best_val_loss of the trial and its replicates, None without these. `seconds` is the training time where the search
    minimises it.
    """

    best_val_loss: float
    number: int
    schedule: str
    best_step: int
    expected_loss: float | None
    mean: float | None
    seconds: float | None = None


def best_trials(trials: Sequence[CompletedTrial], console: Console, top: int = 5) -> None:
    """Prints the first of the completed trials, which are sorted."""
    table = Table(title=f"best of {len(trials)} completed trials", title_justify="left", title_style="bold")
    notes = []
    if any(trial.expected_loss is not None for trial in trials):
        notes.append("fresh seed: the loss expected with another seed")
    if trials and trials[0].best_step == 0:
        notes.append("the best trial was best before its first update: no training improved on the untrained model")
    table.caption, table.caption_justify = "\n".join(notes) or None, "left"
    means = [MEAN_OF_SEEDS] if any(trial.mean is not None for trial in trials) else []
    for column in ("trial", "schedule", *means, "best_val_loss", "at step", "fresh seed"):
        table.add_column(column, justify="left" if column == "schedule" else "right")
    for trial in trials[:top]:
        mean = [_loss(trial.mean)] if means else []
        losses = [*mean, _loss(trial.best_val_loss), str(trial.best_step), _loss(trial.expected_loss)]
        table.add_row(str(trial.number), trial.schedule, *losses)
    console.print(table)


def pareto_table(front: Sequence[CompletedTrial], console: Console) -> None:
    """Prints the trials of the Pareto front, fastest first."""
    table = Table(title="Pareto front of loss and training time", title_justify="left", title_style="bold")
    for column in ("trial", "schedule", "train_seconds", "best_val_loss"):
        table.add_column(column, justify="left" if column == "schedule" else "right")
    for trial in front:
        table.add_row(str(trial.number), trial.schedule, f"{trial.seconds:.1f}", _loss(trial.best_val_loss))
    console.print(table)


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.4f}"


def duration(seconds: float) -> str:
    """Returns a time in words: 40 s, 6 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class WarningsTo(logging.Handler):
    """Shows our own warnings on a console, above its live line."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(
            printable(f"{record.levelname.lower()}: {record.getMessage()}"),
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
