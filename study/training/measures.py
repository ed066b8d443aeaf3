"""What a confirmation measures of a run beside its evaluations; kept in the run's folder. Needs torch only."""

import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_model

from model.generate import generate
from study.base.errors import UserError
from study.base.files import atomic_path
from study.corpus import Corpus
from study.training.evaluation import Windows, windows
from study.training.evaluation_rows import Labels
from study.training.run_folder import RunFolder
from study.training.trainer import Progress, Trainer

FILE = "measures.json"
AT_END = ("test_loss", "train_loss_dropout_off", "sampling_tokens_per_second")
MEASURED = ("full_val_loss", *AT_END)
"""The names of all measures, the same in files and MLflow."""
SAMPLED_TOKENS = 256
SAMPLING_ROUNDS = 3


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


def run_measured(
    folder: RunFolder, trainer: Trainer, corpus: Corpus, labels: Labels, on_step: Callable[[int], None] | None = None
) -> Iterator[tuple[Progress, dict[str, float]]]:
    """Trains as `folder.run` does, and yields each evaluation with what was measured at it.

    That is the full_val_loss, and with the last one all that a run has once. The measures draw nothing from the
    training's generators and do not count as training time.
    """
    measures = Measures.read(folder.path)  # after a restart: what others have seen stays
    measures.corpus_sha256, measures.device = corpus.sha256, _device_name(trainer.device)
    full_val_loss = dict(measures.full_val_loss)
    full_val = windows(corpus.split("full_val"), trainer.config, trainer.device)
    for progress in folder.run(trainer, labels, on_step):
        step, trained = progress.step, trainer.step == progress.step  # else it was complete already
        if trained and step not in full_val_loss:
            full_val_loss[step] = trainer.mean_loss(full_val)
            measures.full_val_loss = sorted(full_val_loss.items())
        if step == trainer.config.steps and measures.test_loss is None:
            if trained:
                measures.train_loss_dropout_off = trainer.mean_loss(_train_windows(trainer, corpus))
            measure_best(measures, folder, trainer, corpus)
        measures.write(folder.path)
        folder.uploads.put(folder.path / FILE)
        at_end = measures.final() if step == trainer.config.steps else {}
        yield progress, at_end | ({"full_val_loss": full_val_loss[step]} if step in full_val_loss else {})


def measure_best(measures: Measures, folder: RunFolder, trainer: Trainer, corpus: Corpus) -> None:
    """Measures the best weights of a run, in its trainer, which is of no use for training afterwards."""
    load_model(trainer.model, str(folder.weights))
    measures.test_loss = trainer.mean_loss(
        windows(corpus.split("test"), replace(trainer.config, val_share=1.0), trainer.device)
    )
    measures.sampling_tokens_per_second = sampling_speed(trainer)


def sampling_speed(trainer: Trainer) -> float:
    """Returns the tokens per second that the model samples, one sequence, with a key/value cache."""
    start = torch.zeros((1, 1), dtype=torch.int64, device=trainer.device)
    generator = torch.Generator(device=trainer.device).manual_seed(0)
    trainer.model.eval()
    generate(trainer.model, start, 16, generator=generator)  # the first calls are slow
    seconds = []
    for _ in range(SAMPLING_ROUNDS):
        started = time.perf_counter()
        generate(trainer.model, start, SAMPLED_TOKENS, generator=generator).tolist()  # waits for the device
        seconds.append(time.perf_counter() - started)
    trainer.model.train()
    return SAMPLED_TOKENS / median(seconds)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def _train_windows(trainer: Trainer, corpus: Corpus) -> Windows:
    config = trainer.config
    tokens = corpus.split("train")[: config.train_chars or None]
    wanted = len(trainer.val_windows[0]) * config.block_size
    return windows(tokens, replace(config, val_share=min(1.0, wanted / len(tokens))), trainer.device)
