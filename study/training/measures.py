"""Takes the measures of a confirmation's run beside its evaluations. Needs torch only."""

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median

import torch
from safetensors.torch import load_model

from model.generate import generate
from study.corpus import Corpus
from study.training.evaluation import Windows, windows
from study.training.evaluation_rows import Labels
from study.training.measures_file import FILE, Measures
from study.training.progress import Progress
from study.training.run_folder import RunFolder
from study.training.trainer import Trainer

SAMPLED_TOKENS = 256
SAMPLING_ROUNDS = 3


def run_measured(
    folder: RunFolder, trainer: Trainer, corpus: Corpus, labels: Labels, on_step: Callable[[int], None] | None = None
) -> Iterator[tuple[Progress, dict[str, float]]]:
    """Trains as `folder.run` does, and yields each evaluation with what was measured at it.

    That is the full_val_loss, and with the last one all that a run has once, as far as the task has it. The measures
    draw nothing from the training's generators and do not count as training time.
    """
    measures = Measures.read(folder.path)  # after a restart: what others have seen stays
    measures.corpus_sha256, measures.device = corpus.sha256, _device_name(trainer.device)
    full_val_loss = dict(measures.full_val_loss)
    full_val = windows(corpus.split("full_val"), trainer.config, trainer.device) if trainer.reads_text else None
    for progress in folder.run(trainer, labels, on_step):
        step, trained = progress.step, trainer.step == progress.step  # else it was complete already
        if full_val is not None and trained and step not in full_val_loss:
            full_val_loss[step] = trainer.mean_loss(full_val)
            measures.full_val_loss = sorted(full_val_loss.items())
        if step == trainer.config.steps and measures.test_loss is None:
            if trained and trainer.reads_text:
                measures.train_loss_dropout_off = trainer.mean_loss(_train_windows(trainer, corpus))
            measure_best(measures, folder, trainer, corpus)
        measures.write(folder.path)
        folder.uploads.put(folder.path / FILE)
        at_end = measures.final() if step == trainer.config.steps else {}
        yield progress, at_end | ({"full_val_loss": full_val_loss[step]} if step in full_val_loss else {})


def measure_best(measures: Measures, folder: RunFolder, trainer: Trainer, corpus: Corpus) -> None:
    """Measures the best weights of a run, in its trainer, which is of no use for training afterwards."""
    load_model(trainer.model, str(folder.weights))
    measures.test_loss = trainer.test_loss(corpus)
    if trainer.reads_text:
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
