"""What a confirmation can show: the seeds and runs that a gain needs, before any of them is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from study.base.errors import UserError
from study.confirm.decision import ALPHA, seed_sd
from study.confirm.look_rule import State
from study.confirm.options import ConfirmOptions, LookOptions
from study.confirm.plan import ConfirmationConfig, ConfirmationFolder, arm_seeds, possible_arms, sweep_runs
from study.confirm.results import is_complete
from study.confirm.simulation import simulate
from study.confirm.statistics import POWER, first_seeds, power_of_test
from study.training.evaluation_rows import best_row
from study.training.run_folder import RunFolder

GAINS = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Gains for which the power is told, in seed SDs."""
STUDIES = 1000
"""Simulated studies for each gain: the chance to show it is then known to within 3 %."""


@dataclass(frozen=True, kw_only=True)
class PowerAt:
    """What a gain needs.

    Attributes:
        gain: of one arm, in seed SDs; the other arms equal the baseline.
        seeds: of a fixed design that shows it with a chance of POWER; None if no practical number does.
        shown: the chance that --until-decided shows it.
        mean_seeds, mean_runs: with --until-decided, on average.
    """

    gain: float
    seeds: int | None
    shown: float
    mean_seeds: float
    mean_runs: float


def power_at(gain: float, compared: int, plan: tuple[int, ...], smallest: float, studies: int = STUDIES) -> PowerAt:
    """Returns what a gain needs.

    Args:
        compared: arms without the baseline.
        smallest: the gain that --until-decided excludes, in seed SDs.
    """
    losses = np.random.default_rng(0).standard_normal((studies, 1 + compared, plan[-1]))
    losses[:, 1] -= gain
    found = simulate(losses, plan, ALPHA, smallest)
    return PowerAt(
        gain=gain,
        seeds=first_seeds(lambda n: fixed_power(gain, n, compared) >= POWER),
        shown=float((found.course.state[:, 0] == State.BETTER).mean()),
        mean_seeds=float(found.seeds.mean()),
        mean_runs=float(found.runs.mean()),
    )


def fixed_power(gain: float, seeds: int, compared: int) -> float:
    """Returns the chance that a fixed number of seeds shows one arm's gain, given in seed SDs."""
    return power_of_test(gain / np.sqrt(2), seeds, ALPHA / compared, compared)


def tell_power(
    config: ConfirmationConfig, folder: ConfirmationFolder, options: ConfirmOptions, console: Console
) -> int:
    """Tells the power of a study's confirmation, and draws it in its folder; returns the exit status."""
    chosen = possible_arms(config)
    swept = {run.arm: dict[int, RunFolder]() for run in sweep_runs(config, folder)}
    for run in sweep_runs(config, folder):
        swept[run.arm][run.seed] = run.folder
    trained = {
        name: {seed: folder.run(name, seed) for seed in arm_seeds(config)} for name in (arm.name for arm in chosen)
    }
    measured = seed_sd(_losses(trained)) or seed_sd(_losses(swept))
    folder.make()
    plan = options.plan if options.max_seeds or not config.looks else config.looks
    tell(len(chosen) - 1, plan, options, measured, folder.path, console)
    return 0


def _losses(runs: dict[str, dict[int, RunFolder]]) -> dict[str, dict[int, float | None]]:
    return {
        arm: {seed: best_row(run.rows())["val_loss"] for seed, run in by_seed.items() if is_complete(run)}
        for arm, by_seed in runs.items()
    }


def tell(
    compared: int,
    plan: tuple[int, ...],
    options: LookOptions,
    measured: float | None,
    folder: Path,
    console: Console,
) -> None:
    """Prints the power of a confirmation with `compared` arms beside the baseline, and draws it in a folder.

    Args:
        plan: the seeds of all looks.
        measured: the SD over seeds in the runs that exist, in nats.

    Raises:
        UserError: if `--smallest` is given, in nats, and the SD over seeds is not known.
    """
    from study.confirm.power_figure import draw_power  # matplotlib takes a second to import

    if compared < 1:
        raise UserError("--power needs an arm beside the best constant rate: there is none")
    sd = options.seed_sd or measured
    if options.smallest is not None and sd is None:
        raise UserError(f"--smallest {options.smallest:g} is in nats and no run has told the SD yet: add --seed-sd SD")
    smallest = 1.0 if options.smallest is None or sd is None else options.smallest / sd
    gains = sorted({*GAINS, smallest})
    with console.status("simulating studies"):
        found = [power_at(gain, compared, plan, smallest) for gain in gains]
    console.print(_table(found, compared, sd, plan))
    where = "given" if options.seed_sd else "measured from the runs that exist"
    known = f"seed SD {sd:.4f} nats, {where}" if sd else "the seed SD is not known yet: gains are in seed SDs only"
    size = "one seed SD" if options.smallest is None else f"{options.smallest:g} nats"
    _say(console, f"{known}; the baseline and {compared} arms; one arm has the gain, and the others have none.")
    _say(
        console,
        f"--until-decided looks at {', '.join(map(str, plan))} seeds and excludes a gain of {size} or more. Runs do "
        f"not include the sweep that chooses the baseline. {STUDIES:,} simulated studies.",
    )
    path = draw_power(found, compared, plan, folder)
    _say(console, f"figure: {path}")


def _table(found: Sequence[PowerAt], compared: int, sd: float | None, plan: tuple[int, ...]) -> Table:
    table = Table(title="what a confirmation can show", title_justify="left", title_style="bold")
    columns = ["gain, seed SDs", *(["gain, nats"] if sd else []), f"seeds for {POWER:.0%}", "runs"]
    columns += [f"--until-decided, at most {plan[-1]}: shown in", "mean seeds", "mean runs"]
    for column in columns:
        table.add_column(column, justify="right")
    for one in found:
        fixed = ["", ""] if one.seeds is None else [f"{one.seeds:,}", f"{one.seeds * (compared + 1):,}"]
        nats = [f"{one.gain * sd:.4f}"] if sd else []
        sequential = [f"{one.shown:.0%}", f"{one.mean_seeds:.1f}", f"{one.mean_runs:,.0f}"]
        table.add_row(f"{one.gain:.3g}", *nats, *fixed, *sequential)
    return table


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
