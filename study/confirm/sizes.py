"""The sizes of supernets beside the same sizes trained alone: losses over seeds, and their comparison."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean

import torch

from model.gpt import GPT
from model.size import ByWidth, Size
from study.base.errors import UserError
from study.confirm.compared_runs import MAY_DIFFER, Run
from study.confirm.decision import Comparison, compare
from study.confirm.statistics import holm
from study.training.config import TrainingConfig
from study.training.evaluation_rows import TASK_METRICS, best_row
from study.training.fits import gpt_config
from study.training.supernet_config import SupernetConfig, subnet_training

SHAPE = ("n_layer", "n_head", "n_embd", "head_size", "n_hidden")
"""The fields of a config that say how large a model is."""


@dataclass(frozen=True, kw_only=True)
class SizeRuns:
    """The runs of one size with one regularizer and one config.

    Attributes:
        label: how it was trained.
        size: of a supernet; None for a model that was trained alone.
        losses: val_loss by seed, at the evaluation that was best for the run as a whole.
    """

    label: str
    parameters: int
    size: Size | None = None
    losses: dict[int, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """The mean loss over the seeds."""
        return fmean(self.losses.values())


@dataclass(frozen=True, kw_only=True)
class SizeComparison:
    """One size in a supernet, against alone, on the seeds that both have; `p_holm` is adjusted over the sizes."""

    supernet: SizeRuns
    alone: SizeRuns
    found: Comparison
    p_holm: float | None


def supernet_sizes(runs: Sequence[Run]) -> list[SizeRuns]:
    """Returns each size of each kind of supernet, the largest first. Raises UserError if a run is no supernet's."""
    labels, found = _labels(runs), dict[tuple[str, Size], SizeRuns]()
    for run, label in _completed(zip(runs, labels, strict=True)):
        config = run.training
        if not isinstance(config, SupernetConfig):
            raise UserError(f"{run.folder.path} is no run of a supernet: give it as --alone")
        metrics = best_row(run.folder.rows())[TASK_METRICS]
        for size in config.size_list():
            if (label, size) not in found:
                parameters = _parameters(subnet_training(config, size), run)
                found[label, size] = SizeRuns(label=label, parameters=parameters, size=size)
            found[label, size].losses[config.seed] = metrics[f"val_loss_{size.name}"]
    return sorted(found.values(), key=lambda s: (s.label, -s.parameters))


def sizes_alone(runs: Sequence[Run]) -> list[SizeRuns]:
    """Returns the sizes that were trained alone, the largest first; of several kinds of a size the best.

    To take the best favours the models that were trained alone. Raises UserError if a run is a supernet's.
    """
    found: dict[tuple[str, str], SizeRuns] = {}
    for run, label in _completed((run, run.words) for run in runs):
        config = run.training
        if isinstance(config, SupernetConfig):
            raise UserError(f"{run.folder.path} is a run of a supernet: give it as --supernet")
        shape = str({name: getattr(config, name) for name in SHAPE if hasattr(config, name)})
        if (shape, label) not in found:
            found[shape, label] = SizeRuns(label=label, parameters=_parameters(config, run))
        found[shape, label].losses[config.seed] = best_row(run.folder.rows())["val_loss"]
    best: dict[int, SizeRuns] = {}
    for series in sorted(found.values(), key=lambda s: s.mean):
        best.setdefault(series.parameters, series)
    return sorted(best.values(), key=lambda s: -s.parameters)


def compare_sizes(supernets: Iterable[SizeRuns], alone: Sequence[SizeRuns]) -> list[SizeComparison]:
    """Compares each size in one kind of supernet with the model of as many parameters that was trained alone."""
    of = {series.parameters: series for series in alone}
    pairs = [(series, of[series.parameters]) for series in supernets if series.parameters in of]
    found = [compare({"alone": a.losses, "supernet": s.losses}, "alone").get("supernet") for s, a in pairs]
    adjusted = holm([None if one is None or one.moderated is None else one.moderated.p for one in found])
    return [
        SizeComparison(supernet=s, alone=a, found=one, p_holm=p)
        for (s, a), one, p in zip(pairs, found, adjusted, strict=True)
        if one is not None
    ]


def by_label(series: Iterable[SizeRuns]) -> Mapping[str, list[SizeRuns]]:
    """Returns the sizes of each kind of supernet."""
    found: dict[str, list[SizeRuns]] = {}
    for one in series:
        found.setdefault(one.label, []).append(one)
    return found


def _completed(runs: Iterable[tuple[Run, str]]) -> list[tuple[Run, str]]:
    completed = [(run, label) for run, label in runs if run.completed]
    if not completed:
        raise UserError("no run has reached its end: complete them first")
    return completed


def _labels(runs: Sequence[Run]) -> list[str]:
    """Returns a name for how each run was trained: its regularizer, and the fields in which the runs differ."""
    configs = [asdict(run.training) for run in runs]
    names = [
        name
        for name in dict.fromkeys(name for config in configs for name in config)
        if name not in MAY_DIFFER and len({config.get(name) for config in configs}) > 1
    ]
    labels = []
    for run, config in zip(runs, configs, strict=True):
        by_width = ["rates by width"] if run.size_rule == ByWidth() else []  # else the words name the rule
        labels.append(", ".join([run.words, *by_width, *(f"{name} {config.get(name)}" for name in names)]))
    return labels


def _parameters(config: TrainingConfig, run: Run) -> int:
    with torch.device("meta"):
        gpt = GPT(gpt_config(config, run.folder.vocab_size()))
    return sum(p.numel() for p in gpt.parameters())
