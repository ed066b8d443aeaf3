"""Times training steps, compilations under a changing rate, evaluations, checkpoints and sampling."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from model.dropout import set_dropout_rate
from model.generate import generate
from model.gpt import GPT, GPTConfig
from model.schedules import Constant
from study.bench.contestants import PlainGPT, Shape, Step, gpt2_step, our_step, plain_step, products, training_step
from study.bench.timing import in_turn, ratio
from study.corpus import Corpus
from study.training.checkpoints import Checkpoints
from study.training.config import PRESETS
from study.training.evaluation_rows import Labels
from study.training.run_folder import RunFolder
from study.training.trainable import Trainable
from study.training.trainer import Trainer

SMALL = Shape(GPTConfig(vocab_size=65, block_size=64, n_layer=4, n_head=4, n_embd=128), batch_size=12)
"""nanoGPT's model for a CPU."""
RATES = (0.0, 0.1, 0.2, 0.5)
Numbers = dict[str, float]
Say = Callable[[str], None]


def bench_steps(say: Say, rounds: int) -> Numbers:
    """Compares the steps of all models, with one and two threads."""
    numbers: Numbers = {}
    costs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        contestants: dict[str, Step] = {}
        for rate in RATES:
            contestants |= {f"ours {rate}": our_step(SMALL, rate), f"plain {rate}": plain_step(SMALL, rate)}
            try:
                contestants[f"gpt2 {rate}"] = gpt2_step(SMALL, rate)
            except ModuleNotFoundError:
                say("transformers is not installed: skipping Hugging Face's GPT-2")
        contestants["products"] = products(SMALL)[0]
        seconds = in_turn(contestants, rounds)
        say(f"\nms a step, {threads} thread{'s'[: threads - 1]}, median of {rounds} rounds in turn")
        say(f"{'rate':>6}{'ours':>10}{'plain':>10}{'GPT-2':>10}   products alone {ms(seconds['products'])}")
        for rate in RATES:
            times = [ms(seconds[f"{name} {rate}"]) if f"{name} {rate}" in seconds else "-" for name in NAMES]
            say(f"{rate:>6}" + "".join(f"{t:>10}" for t in times))
        costs.append(ratio(seconds, "ours 0.2", "ours 0.0"))
        numbers[f"step_vs_plain_{threads}_thread{'s'[: threads - 1]}"] = ratio(seconds, "ours 0.2", "plain 0.2")
        if threads == 1:
            numbers["step_vs_floor"] = ratio(seconds, "ours 0.2", "products")
        elif "gpt2 0.2" in seconds:
            numbers["step_vs_gpt2"] = ratio(seconds, "ours 0.2", "gpt2 0.2")
    return numbers | {"step_dropout_cost": max(costs)}


NAMES = ("ours", "plain", "gpt2")


def bench_compilations(say: Say, steps: int = 200) -> Numbers:
    """Counts the compilations of our GPT and the plain GPT while the rate changes at every step."""
    shape = Shape(GPTConfig(vocab_size=65, block_size=16, n_layer=1, n_head=2, n_embd=32), batch_size=4)
    ours, plain = GPT(shape.model), PlainGPT(shape.model, 0.2)
    counts = {}
    for name, model, set_rate in (
        ("ours", ours, lambda r: set_dropout_rate(ours, r)),
        ("plain", plain, plain.set_rate),
    ):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        compiled = _Counted(model)
        step = training_step(compiled, shape, "cpu")
        started = time.perf_counter()
        for i in range(steps):
            set_rate(0.5 * (1 - i / (steps - 1)))  # the last rate is 0
            step()
        counts[name] = (compiled.graphs, compiled.eager, time.perf_counter() - started)
    for name, (graphs, eager, seconds) in counts.items():
        say(f"{name:>6}: {graphs} compilations over {steps} rates, {eager} steps run eagerly, {seconds:.0f} s")
    graphs, eager, _ = counts["ours"]
    return {"compilations": float(graphs), "compiled_steps_run_eagerly": float(eager)}


class _Counted(nn.Module):
    """A compiled model that counts its graphs, and the calls that run none of them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.graphs, self.eager = model, 0, 0
        self._ran = False
        self._compiled = torch.compile(model, backend=self._backend)

    def _backend(self, graph: Any, inputs: Any) -> Any:
        from torch._dynamo.backends.registry import lookup_backend

        self.graphs += 1
        call = lookup_backend("inductor")(graph, inputs)

        def run(*args: Any) -> Any:
            self._ran = True
            return call(*args)

        return run

    def forward(self, x: Tensor, y: Tensor) -> Any:
        self._ran = False
        out = self._compiled(x, y)
        self.eager += not self._ran
        return out


def bench_evaluation(say: Say, corpus: Corpus) -> Numbers:
    """Compares an evaluation with the training between two evaluations, for each preset."""
    shares = {}
    for name, preset in PRESETS.items():
        large = name == "shakespeare_char"
        trainer = Trainer(replace(preset.training, threads=2 if large else 1), Constant(0.2), corpus)
        steps = 1 if large else 20
        contestants: dict[str, Step] = {"steps": partial(trainer.train_steps, steps), "evaluation": trainer.validate}
        seconds = in_turn(contestants, rounds=2 if large else 7)
        share = median(seconds["evaluation"]) / (median(seconds["steps"]) / steps * preset.training.eval_interval)
        say(f"{name}: an evaluation takes {share:.4f} of the training between two evaluations")
        shares[name] = share
    return {"evaluation_share": max(shares.values())} | {f"evaluation_share_{k}": v for k, v in shares.items()}


def bench_saving(say: Say, corpus: Corpus) -> Numbers:
    """Measures the share of a laptop run that writes evaluations, best weights and checkpoints."""
    trainer = Trainer(replace(PRESETS["laptop"].training, steps=300), Constant(0.2), corpus)
    with tempfile.TemporaryDirectory() as path:
        folder = _TimedFolder(Path(path))
        folder.checkpoints = checkpoints = _TimedCheckpoints(folder.resume, folder.uploads)
        seconds = [p.train_seconds for p in folder.run(trainer, Labels())][-1]
    share = (folder.seconds + checkpoints.seconds) / seconds
    say(f"laptop: saving takes {share:.4f} of the training")
    return {"saving_share": share}


class _TimedFolder(RunFolder):
    """A run's folder that sums the seconds of its writes."""

    seconds = 0.0

    def save(self, trainer: Trainable, labels: Labels) -> None:
        started = time.perf_counter()
        super().save(trainer, labels)
        self.seconds += time.perf_counter() - started


class _TimedCheckpoints(Checkpoints):
    """Checkpoints that sum the seconds of their writes."""

    seconds = 0.0

    def write(self, trainer: Trainable) -> None:
        started = time.perf_counter()
        super().write(trainer)
        self.seconds += time.perf_counter() - started


def bench_sampling(say: Say, n: int = 256) -> Numbers:
    """Compares sampling with a key/value cache to sampling that reads the whole context for each token."""
    torch.set_num_threads(1)
    gpt = GPT(SMALL.model).eval()
    numbers: Numbers = {}
    for batch_size in (1, SMALL.batch_size):
        start = torch.zeros(batch_size, 1, dtype=torch.long)
        contestants: dict[str, Step] = {
            "with a cache": partial(generate, gpt, start, n),
            "without": partial(generate, gpt, start, n, cached=False),
        }
        seconds = in_turn(contestants, rounds=7)
        for name, times in seconds.items():
            say(f"sampling {batch_size} at once {name}: {n * batch_size / median(times):.0f} tokens per second")
        numbers[f"cached_sampling_speedup_{batch_size}"] = ratio(seconds, "without", "with a cache")
    return numbers | {"cached_sampling_speedup": numbers[f"cached_sampling_speedup_{SMALL.batch_size}"]}


def ms(seconds: list[float]) -> str:
    """Returns the median in milliseconds."""
    return f"{median(seconds) * 1e3:.1f}"
