"""The file with the measures of a confirmation's run, in the run's folder."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from study.base.errors import UserError
from study.base.files import atomic_path

FILE = "measures.json"
AT_END = ("test_loss", "train_loss_dropout_off", "sampling_tokens_per_second")
MEASURED = ("full_val_loss", *AT_END)
"""The names of all measures, the same in files and MLflow."""


@dataclass(kw_only=True)
class Measures:
    """The measures of one run; None where one was not taken.

    Attributes:
        device: where the run was trained.
        full_val_loss: (step, loss) over the whole last tenth of the text, in the order of the steps.
        test_loss: of the best weights, over all of the test half.
        train_loss_dropout_off: of the last weights, over as many windows of the training text as an evaluation reads.
        sampling_tokens_per_second: median of a few rounds, one sequence, with a key/value cache.
    """

    corpus_sha256: str | None = None
    device: str | None = None
    full_val_loss: list[tuple[int, float]] = field(default_factory=list)
    test_loss: float | None = None
    train_loss_dropout_off: float | None = None
    sampling_tokens_per_second: float | None = None

    @classmethod
    def read(cls, folder: Path) -> "Measures":
        """Reads those of a run's folder; none were taken if there is no file. Raises UserError if it is damaged."""
        path = folder / FILE
        if not path.exists():
            return cls()
        try:
            d = json.loads(path.read_text(encoding="utf-8"))
            return cls(**d | {"full_val_loss": [(int(step), float(loss)) for step, loss in d["full_val_loss"]]})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}): remove it") from None

    def write(self, folder: Path) -> None:
        """Writes them into a run's folder, whole or not at all."""
        with atomic_path(folder / FILE) as part:
            part.write_text(json.dumps(asdict(self)), encoding="utf-8")

    def final(self) -> dict[str, float]:
        """Returns those that a run has once, at its end, as far as they were taken."""
        return {name: value for name in AT_END if (value := getattr(self, name)) is not None}
