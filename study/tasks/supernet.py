"""The task `supernet`: one training for GPTs of several sizes, which are parts of the largest."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor

from model.divergence import adaptive_divergence
from model.dropout import rate_owners, set_rates
from model.elastic import ElasticGPT
from model.gpt import GPTConfig
from model.regularizer import PLAIN_SIZE_RULE, Regularizer
from model.scaled_adam import ScaledAdam
from model.schedules import Schedule
from model.size import Size
from study.base.errors import UserError
from study.base.files import atomic_path
from study.corpus import Corpus
from study.training.evaluation import Windows
from study.training.fits import gpt_config
from study.training.regularized import parts
from study.training.run_folder import CONFIG, WEIGHTS, RunFolder
from study.training.schedule_file import ScheduleFile, read_schedule_file
from study.training.supernet_config import SupernetConfig, subnet_training
from study.training.trainer import Trainer

GRAPHS_PER_SIZE = 3
"""Of torch.compile: training with dropout and without, and evaluation."""


class SupernetTrainer(Trainer):
    """A training run of a supernet, in steps of the sandwich rule (Yu & Huang 2019, arXiv 1903.05134).

    `val_loss`, and so what is minimised, is the mean over the sizes; each size's own loss is a metric, `val_loss_0.5x2`
    for width 0.5 and depth 2. `train_loss` is the cross-entropy of the largest. Between updates and evaluations the
    model stands at its largest size, with that size's rates.

    Raises:
        UserError: as Trainer does.
    """

    config: SupernetConfig
    model: ElasticGPT

    def __init__(
        self,
        config: SupernetConfig,
        regularizer: Regularizer | Schedule | Mapping[str, Any],
        corpus: Corpus,
        device: str = "cpu",
    ) -> None:
        self.sizes = config.size_list()
        # Seeds are below 2^31: no run's data order has this one.
        self.size_generator = torch.Generator().manual_seed(config.seed + 2**31)
        if config.compile:
            import torch._dynamo.config as dynamo  # takes a second

            dynamo.recompile_limit = max(dynamo.recompile_limit, GRAPHS_PER_SIZE * len(self.sizes))
        super().__init__(config, regularizer, corpus, device)

    def make_model(self, config: GPTConfig) -> ElasticGPT:
        return ElasticGPT(config, self.regularizer.family)

    def make_optimizer(self) -> torch.optim.Optimizer:
        if self.config.optimizer == "adamw":
            return super().make_optimizer()
        betas = (self.config.beta1, self.config.beta2)
        return ScaledAdam(self.model.parameters(), lr=self.config.learning_rate, betas=betas)

    def update(self, starts: Tensor) -> Tensor:
        """Makes one update: the largest size, the smallest, and a few that chance takes; returns the largest's loss.

        The gradients of all are added up, and clipped as one.
        """
        c, (x, y) = self.config, self._batch(starts)
        with self._autocast():
            teacher, largest_loss = self.model(x, y)
        largest_loss.backward()
        teacher = teacher.detach()
        full = self._rates_now()
        for size in (self.sizes[-1], *self.draw_sizes()):
            self._use(size, full)
            with self._autocast():
                logits, loss = self.model(x, y)
            if c.distillation:
                divergence = adaptive_divergence(logits, teacher, c.alpha_low, c.alpha_high, c.importance_clip)
                loss = (1 - c.distillation) * loss + c.distillation * divergence
            loss.backward()
        self._use(self.sizes[0], full)
        self._apply_gradients()
        detached: Tensor = largest_loss.detach()
        return detached

    def draw_sizes(self) -> list[Size]:
        """Returns sizes between the largest and the smallest, for the next update, none twice."""
        between = self.sizes[1:-1]
        order = torch.randperm(len(between), generator=self.size_generator).tolist()
        return [between[i] for i in order[: self.config.n_random]]

    def measure(self) -> tuple[float, dict[str, float]]:
        losses = self.size_losses(self.val_windows)
        return _mean(losses), {f"val_loss_{size.name}": loss for size, loss in losses.items()}

    def mean_loss(self, windows: Windows) -> float:
        """Returns the mean over the sizes of the cross-entropy in nats per token over `windows`, dropout off."""
        return _mean(self.size_losses(windows))

    def size_losses(self, windows: Windows) -> dict[Size, float]:
        """Returns the cross-entropy of each size in nats per token over `windows`, dropout off."""
        full, losses = self._rates_now(), {}
        for size in self.sizes:
            self._use(size, full)
            losses[size] = super().mean_loss(windows)
        self._use(self.sizes[0], full)
        return losses

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"size_generator": self.size_generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.size_generator.set_state(state["size_generator"])

    def _compile_updates(self) -> None:
        full = self._rates_now()
        for size in self.sizes:
            self._use(size, full)
            super()._compile_updates()
        self._use(self.sizes[0], full)

    def _rates_now(self) -> list[float]:
        """Returns the rate of each block, while the model stands at its largest size."""
        return [owner.value for owner in self._owners]

    def _use(self, size: Size, full: list[float]) -> None:
        """Lets the model work at a size, with its rates, where those of the largest are `full`."""
        self.model.resize(size)
        is_largest, rule = size == self.sizes[0], self.regularizer.size_rule
        set_rates(self._owners, [rule.rate(p, size, is_largest=is_largest) for p in full])


def _mean(losses: Mapping[Size, float]) -> float:
    return sum(losses.values()) / len(losses)


@dataclass(frozen=True, kw_only=True)
class ExtractedSize:
    """What `extract_run` wrote: the size, its parameters, and the step that its weights are of."""

    size: Size
    parameters: int
    step: int


def extract_run(folder: Path, size: Size, output: Path, provenance: Mapping[str, Any] | None = None) -> ExtractedSize:
    """Writes one size of a supernet as an ordinary GPT: `model.safetensors` and `config.yaml` in `output`.

    `RunFolder(output).load_best(corpus)` reads it. Its logits equal those of the supernet at that size bit for bit.

    Args:
        folder: has the supernet's `model.safetensors` and `config.yaml`: a run's, or the artifact `checkpoint/`.
        size: one that was trained.
        output: is made if need be; files of these names are replaced.
        provenance: more facts for the file, beside the run's own.

    Raises:
        UserError: if `folder` is no supernet's, or the size is none of its own.
    """
    file = read_schedule_file(folder / CONFIG)
    config = file.training
    if not isinstance(config, SupernetConfig):
        raise UserError("this is no supernet: only --task supernet has sizes to export")
    if size not in config.size_list():
        raise UserError(f"size {size} was not trained: give one of {' or '.join(config.sizes.split())}")
    with safe_open(folder / WEIGHTS, framework="pt") as weights:
        step = int((weights.metadata() or {}).get("step", -1))
    supernet = ElasticGPT(gpt_config(config, RunFolder(folder).vocab_size()), file.family)
    load_model(supernet, str(folder / WEIGHTS))
    owners = rate_owners(supernet)  # of a family that works in evaluation, rates come with the weights
    is_largest = size == config.size_list()[0]
    set_rates(owners, [file.size_rule.rate(owner.value, size, is_largest=is_largest) for owner in owners])
    gpt = supernet.extract(size)
    output.mkdir(parents=True, exist_ok=True)
    with atomic_path(output / WEIGHTS) as part:
        save_model(gpt, str(part), metadata={"step": str(step)})
    facts = {**(file.provenance or {}), **(provenance or {}), "supernet_size": str(size)}
    regularizer = replace(file.regularizer, size_rule=PLAIN_SIZE_RULE)  # it has one size
    extracted = ScheduleFile(**parts(regularizer), training=subnet_training(config, size), provenance=facts)
    extracted.write(output / CONFIG)
    return ExtractedSize(size=size, parameters=sum(p.numel() for p in gpt.parameters()), step=step)
