"""Which parameters of the winner lie at an end of their range."""

import math
from dataclasses import dataclass

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from study.base.ranking import best_first
from study.records.optuna_study import loss_of
from study.records.replicates import replicate_losses


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A parameter of the winner at an end of its range; `natural` if there is nothing beyond, as below a rate of 0."""

    name: str
    value: float
    low: float
    high: float
    natural: bool


NATURAL_LOW = {"rate": 0, "initial_rate": 0, "final_rate": 0, "peak_rate": 0, "patience": 1}
EDGE_SHARE = 0.05


def at_edge(name: str, value: float, low: float, high: float, *, log: bool, whole: bool) -> Edge | None:
    """Returns the edge that a value lies at, or None.

    At the edge is within a twentieth of the range, in the logarithm if it is searched so; for whole numbers, at its
    end.
    """
    if low == high:
        return None
    share = (math.log(value / low) / math.log(high / low)) if log else (value - low) / (high - low)
    margin = 1e-9 if whole else EDGE_SHARE + 1e-9
    if margin < share < 1 - margin:
        return None
    natural = share <= margin and NATURAL_LOW.get(name) == low
    return Edge(name=name, value=value, low=low, high=high, natural=natural)


def winner_edges(study: optuna.Study) -> list[Edge]:
    """Returns the winner's numeric parameters that lie at an end of their range."""
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not completed:
        return []
    winner = best_first(completed, loss=loss_of, number=lambda trial: trial.number, replicates=replicate_losses(study))[
        0
    ]
    edges = []
    for name, kind in winner.distributions.items():
        if isinstance(kind, FloatDistribution | IntDistribution):
            whole = isinstance(kind, IntDistribution)
            edges.append(at_edge(name, winner.params[name], kind.low, kind.high, log=kind.log, whole=whole))
    return [edge for edge in edges if edge is not None]
