"""The best schedule of a study: its file, and a sample of what its model writes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model.generate import generate
from study.base.provenance import VERSION, utc_now
from study.corpus import Corpus
from study.training.run_folder import RunFolder
from study.training.schedule_file import ScheduleFile

SAMPLE_TOKENS = 300


def winning_file(
    file: ScheduleFile,
    *,
    study: str,
    trial: int,
    run_id: str | None,
    val_losses: list[tuple[int, float]],
    facts: Mapping[str, str],
) -> ScheduleFile:
    """Returns a winner's schedule file with where it comes from.

    Args:
        val_losses: the trial's (step, val_loss).
        facts: what the study's run has as tags: corpus_sha256, commit, version.PACKAGE.
    """
    best_val_loss, best_step = min((loss, step) for step, loss in val_losses)
    steps, final_val_loss = max(val_losses)
    provenance: dict[str, Any] = {
        "study": study,
        "trial": trial,
        "run_id": run_id,
        "best_val_loss": best_val_loss,
        "best_step": best_step,
        "final_val_loss": final_val_loss,
        "steps": steps,
        "corpus_sha256": facts["corpus_sha256"],
        "commit": facts["commit"],
        "versions": {key.removeprefix(VERSION): facts[key] for key in facts if key.startswith(VERSION)},
        "created": utc_now(),
    }
    return replace(file, provenance=provenance)


def write_sample(folder: RunFolder, corpus: Corpus) -> str:
    """Lets the best weights of a run write some text, keeps it beside them, and returns it."""
    torch.set_num_threads(1)  # on cores that are busy, threads wait for each other at every token
    model = folder.load_best(corpus)
    start = torch.tensor([[corpus.encode("\n")[0] if "\n" in corpus.vocab else 0]])
    generator = torch.Generator().manual_seed(0)
    text = corpus.decode(generate(model, start, SAMPLE_TOKENS, generator=generator)[0, 1:].tolist())
    Path(folder.sample).write_text(text, encoding="utf-8")
    return text
