"""The callback in real Lightning fits: the rates that the module drops with, the logs, checkpoints, resuming."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from model.adapters import LightningDropout
from model.schedules import from_dict
from tests.hugging_face_models import MODELS
from tests.watched_dropout import Watch

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]
FALLING = {"kind": "linear", "initial_rate": 0.4, "final_rate": 0.1}
STEERED = {"kind": "val_loss", "initial_rate": 0.4, "final_rate": 0.1, "factor": 0.5, "patience": 1, "min_delta": 0.0}
STEPS, EVERY, CALLS = 12, 3, 8
"""Updates, updates between validations, and calls that drop in a batch: GPT-2's seven, and the head's."""
IDS = torch.randint(0, 90, (48, 8), generator=torch.Generator().manual_seed(0))


class Module(L.LightningModule):
    """A GPT-2, and a head whose rate is read from the hyperparameters when it runs."""

    def __init__(self, head_dropout: float = 0.2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.gpt = MODELS["gpt2"][0]()
        self.losses: list[float] = []

    def forward(self, ids: Tensor) -> Tensor:
        logits = F.dropout(self.gpt(input_ids=ids).logits, self.hparams["head_dropout"], self.training)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    def training_step(self, ids: Tensor, index: int) -> Tensor:
        return self(ids)

    def validation_step(self, ids: Tensor, index: int) -> None:
        self.log("val_loss", self(ids))

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.losses.append(float(self.trainer.callback_metrics["val_loss"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-2)


def trainer(folder: Path, callbacks: list[Any], library: Any = L, **settings: Any) -> Any:
    """A Trainer of twelve updates of two batches each, in two epochs, with the check before the training."""
    arguments = {
        "max_epochs": 2, "accumulate_grad_batches": 2, "val_check_interval": 2 * EVERY, "accelerator": "cpu",
        "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
    } | settings  # fmt: skip
    return library.Trainer(default_root_dir=folder, callbacks=callbacks, **arguments)


def watched(training: Any, module: nn.Module, **more: Any) -> list[float]:
    """Fits; returns the rate of each update, which all its calls must share."""
    torch.manual_seed(0)
    with Watch() as watch:
        training.fit(module, DataLoader(IDS, 4), DataLoader(IDS[:8], 4), **more)
    rates = [rate for rate in watch.rates if rate]
    updates = [rates[i : i + 2 * CALLS] for i in range(0, len(rates), 2 * CALLS)]
    assert all(len(update) == 2 * CALLS and len(set(update)) == 1 for update in updates)
    return [update[0] for update in updates]


def expected(schedule: dict[str, Any], evaluations: list[float]) -> list[float]:
    driven, rates = from_dict(schedule), []
    for step in range(STEPS):
        rates.append(driven.rate(step / STEPS))
        if (step + 1) % EVERY == 0:
            driven.observe(evaluations[step // EVERY])
    return rates


def test_each_update_drops_with_the_schedules_rate_and_logs_it(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="log", version=0)
    module = Module()
    rates = watched(trainer(tmp_path, [LightningDropout(FALLING)], logger=logger, log_every_n_steps=1), module)
    assert rates == expected(FALLING, [0.0] * STEPS)
    assert {m.p for m in module.modules() if isinstance(m, nn.Dropout)} == {0.1}
    header, *rows = [row.split(",") for row in (tmp_path / "log/version_0/metrics.csv").read_text().splitlines()]
    step, rate = header.index("step"), header.index("dropout_rate")
    logged = {int(row[step]): float(row[rate]) for row in rows if row[rate]}
    assert logged == pytest.approx(dict(enumerate(rates)))


def test_validations_steer_and_a_resumed_fit_goes_on(tmp_path: Path) -> None:
    checkpoints = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=EVERY, save_top_k=-1)
    module = Module()
    callback = LightningDropout(STEERED)
    rates = watched(trainer(tmp_path, [checkpoints, callback], enable_checkpointing=True), module)
    assert rates == expected(STEERED, module.losses)
    assert rates[9] not in (rates[6], 0.4), "a schedule that began at step 6 would not move yet"
    state = callback.state_dict()
    trainer(tmp_path, [callback]).validate(module, DataLoader(IDS[:8], 4))
    assert callback.state_dict() == state, "the fit is over"
    resumed = watched(
        trainer(tmp_path, [LightningDropout(STEERED)]), Module(), ckpt_path=tmp_path / "step=6.ckpt", weights_only=False
    )
    assert resumed == rates[6:]


def test_checkpoints_have_the_users_hyperparameters(tmp_path: Path) -> None:
    checkpoints = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=EVERY, save_top_k=-1)
    watched(trainer(tmp_path, [checkpoints, LightningDropout(FALLING)], enable_checkpointing=True), Module())
    saved = sorted(tmp_path.glob("*.ckpt"))
    assert len(saved) == 4
    for path in saved:
        assert torch.load(path, weights_only=False)["hyper_parameters"] == {"head_dropout": 0.2}


def test_the_library_by_its_older_name(tmp_path: Path) -> None:
    class Old(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.body = Module()

        def training_step(self, ids: Tensor, index: int) -> Tensor:
            return self.body(ids)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 1e-2)

    training = trainer(tmp_path, [LightningDropout(FALLING)], pytorch_lightning, val_check_interval=None)
    assert watched(training, Old()) == expected(FALLING, [0.0] * STEPS)


def test_what_a_schedule_needs_and_does_not_get_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^a schedule needs the length of the training: give the Trainer max_steps"):
        watched(trainer(tmp_path, [LightningDropout(FALLING)], max_epochs=-1), Module())
    module = Module()
    with pytest.raises(ValueError, match=r"^validation logs no loss for the val_loss schedule, but .*val_loss: give"):
        watched(trainer(tmp_path, [LightningDropout(STEERED, monitor="loss")]), module)
    assert {m.p for m in module.modules() if isinstance(m, nn.Dropout)} == {0.1}
    assert module.hparams["head_dropout"] == 0.2
    with pytest.raises(ValueError, match="kind of a schedule"):
        LightningDropout({"kind": "linearr"})
