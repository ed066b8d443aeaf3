"""The runs of `study.train --output` that are compared, read from their folders."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from model.regularizer import Regularizer
from study.base.errors import UserError
from study.confirm.arms import canonical_regularizer, is_constant_rate
from study.engine.display import describe
from study.training.config import TrainingConfig
from study.training.evaluation_rows import parse_rows
from study.training.measures_file import Measures
from study.training.regularized import Regularized, parts
from study.training.run_folder import RunFolder
from study.training.schedule_file import read_schedule_file

MAY_DIFFER = ("seed", "threads", "corpus")
"""Fields in which compared runs may differ. Threads depend on the machine, and the hash identifies a corpus whose path
differs between machines."""


@dataclass(frozen=True, kw_only=True)
class Run(Regularized):
    """A run, read from its folder."""

    folder: RunFolder
    training: TrainingConfig
    measures: Measures

    @property
    def simple(self) -> Regularizer:
        """The simplest regularizer that drops the same."""
        return canonical_regularizer(self.regularizer)

    @property
    def is_constant_rate(self) -> bool:
        """Whether it may be the baseline."""
        return is_constant_rate(self.regularizer)

    @property
    def words(self) -> str:
        """Its regularizer in words."""
        return describe(self.regularizer.to_dict())

    @property
    def completed(self) -> bool:
        """Whether the run has reached its end."""
        rows = self.folder.rows()
        return bool(rows) and rows[-1]["outcome"] is not None


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Returns the runs in some folders or below them. Raises UserError if one holds none, or a run is damaged."""
    return [_read(path) for path in _folders(paths)]


def check_alike(runs: Sequence[Run], corpus: str | None) -> None:
    """Raises UserError if the runs cannot be compared."""
    first, seen = runs[0], dict[tuple[Regularizer, int], Path]()
    for run in runs:
        a, b = asdict(first.training), asdict(run.training)
        for name in a | b:  # runs of two tasks have other fields
            if (mine := b.get(name)) != (others := a.get(name)) and name not in MAY_DIFFER:
                raise UserError(
                    f"--runs {first.folder.path} and {run.folder.path} differ in {name} ({others} and {mine}): "
                    "only schedule and seed may differ"
                )
        key = run.simple, run.training.seed
        if key in seen:
            raise UserError(
                f"--runs {seen[key]} and {run.folder.path} are both {run.words} with seed "
                f"{run.training.seed}: leave one out"
            )
        seen[key] = run.folder.path
    hashes = {run.measures.corpus_sha256: run for run in runs if run.measures.corpus_sha256}
    names = {run.training.corpus: run for run in runs}
    told = corpus is not None or all(run.measures.corpus_sha256 for run in runs)
    if len(hashes) > 1 or (len(names) > 1 and not told):
        one, other = list((hashes if len(hashes) > 1 else names).values())[:2]
        raise UserError(
            f"--runs {one.folder.path} and {other.folder.path} learned from different texts ({one.training.corpus} "
            f"and {other.training.corpus}): compare runs on the same one, or name it with --corpus if it is the same"
        )


def _folders(paths: Sequence[Path]) -> list[Path]:
    folders = []
    for path in paths:
        below = [path] if (path / "config.yaml").exists() else sorted(p.parent for p in path.rglob("config.yaml"))
        if not below:
            raise UserError(f"--runs {path}: there is no run of study.train --output in it, nor below it")
        folders += below
    return list(dict.fromkeys(folder.resolve() for folder in folders))


def _read(path: Path) -> Run:
    folder = RunFolder(path)
    file = read_schedule_file(folder.config)
    if not isinstance(file.training, TrainingConfig):
        raise UserError(f"--runs {path}: its config.yaml has no training config of a GPT")
    try:  # a trial's damaged line is skipped, because the trial trains again; these runs do not
        lines = folder.metrics.read_bytes().splitlines() if folder.metrics.exists() else []
        if None in parse_rows(lines):
            raise ValueError("not only evaluations")
    except (OSError, ValueError) as error:
        raise UserError(f"--runs {path}: {folder.metrics.name} is damaged ({error})") from None
    return Run(folder=folder, **parts(file.regularizer), training=file.training, measures=Measures.read(path))
