"""The looks of `--until-decided`: when it tests, and how much of the error rate each test may spend."""

LOOKS = (3, 5, 8, 12, 18, 27)
"""Seeds at which a confirmation is judged; each look has about half as many more as the one before."""
LEAST_SEEDS = LOOKS[0]
MOST_SEEDS = LOOKS[-1]
"""With so many seeds, a gain of one seed SD is shown or excluded in most studies."""


def planned_looks(seeds: int) -> tuple[int, ...]:
    """Returns the seeds at which a confirmation with at most `seeds` of them is judged; the last look has them all."""
    looks = list(LOOKS)
    while looks[-1] < seeds:
        looks.append(looks[-1] * 3 // 2)
    return (*(n for n in looks if n < seeds), seeds)


def shares(looks: tuple[int, ...]) -> tuple[float, ...]:
    """Returns the share of the error rate that each look spends: each new seed has the same share.

    The shares sum to 1, so all looks together err at most as often as one test at the full level (Bonferroni). This
    holds for any dependence between the looks, whichever arms are dropped.
    """
    return tuple((n - before) / looks[-1] for before, n in zip((0, *looks), looks, strict=False))
