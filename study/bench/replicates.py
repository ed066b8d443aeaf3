"""`python -m study.bench.replicates`: what replicates buy at equal cost, in simulated searches whose truth is known."""

import sys
from dataclasses import dataclass

import numpy as np

from study.base.ranking import MORE_SEEDS

DRAWS = 20_000
BUDGETS = (16, 32, 64)
REPLICATED = (0, 1, 2, 3, 4, 6, 8)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How far true losses and seeds spread, as standard deviations in nats."""

    between_trials: float
    between_seeds: float


SETTINGS = (
    Setting(between_trials=0.010, between_seeds=0.014),
    Setting(between_trials=0.010, between_seeds=0.010),
    Setting(between_trials=0.010, between_seeds=0.003),
)


def chosen_loss(generator: np.random.Generator, setting: Setting, runs: int, replicated: int) -> tuple[float, float]:
    """Returns the mean true loss of the chosen trial, from the mean of all trials, and its standard error.

    Simulates searches at the cost of `runs` runs: `replicated` of the trials take MORE_SEEDS runs each, and the other
    runs are trials. The best by one seed are replicated; the lowest mean is chosen. The losses are normal.
    """
    trials = runs - MORE_SEEDS * replicated
    truth = generator.normal(0, setting.between_trials, (DRAWS, trials))
    seen = truth + generator.normal(0, setting.between_seeds, truth.shape)
    if replicated:
        best = np.argpartition(seen, replicated - 1, axis=1)[:, :replicated]
        truth, seen = (np.take_along_axis(losses, best, axis=1) for losses in (truth, seen))
        more = truth + generator.normal(0, setting.between_seeds, (MORE_SEEDS, *truth.shape))
        seen = (seen + more.sum(axis=0)) / (1 + MORE_SEEDS)
    chosen = truth[np.arange(DRAWS), seen.argmin(axis=1)]
    return float(chosen.mean()), float(chosen.std() / DRAWS**0.5)


def main() -> int:
    """Prints, for each setting and budget, the true loss of the chosen trial less that without replicates."""
    generator = np.random.default_rng(0)
    print(f"true loss of the chosen trial in nats, less that without replicates; {DRAWS:,} searches each\n")
    print("| SD of seeds / of true losses | runs | " + " | ".join(f"K = {k}" for k in REPLICATED[1:]) + " |")
    print("|" + "---|" * (1 + len(REPLICATED)))
    for setting in SETTINGS:
        for runs in BUDGETS:
            found = [
                chosen_loss(generator, setting, runs, k)[0] if runs - MORE_SEEDS * k > k else None for k in REPLICATED
            ]
            alone = found[0]
            assert alone is not None
            cells = ["" if loss is None else f"{loss - alone:+.4f}" for loss in found[1:]]
            ratio = setting.between_seeds / setting.between_trials
            print(f"| {ratio:.1f} | {runs} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
