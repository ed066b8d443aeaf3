"""The callback in real Trainer runs: the rates that the model drops with, the logs, the saved configs, resuming."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from model.adapters import HuggingFaceDropout
from model.schedules import from_dict
from tests.hugging_face_models import MODELS
from tests.watched_dropout import Watch

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")]
FALLING = {"kind": "linear", "initial_rate": 0.4, "final_rate": 0.1}
STEERED = {"kind": "val_loss", "initial_rate": 0.4, "final_rate": 0.1, "factor": 0.5, "patience": 1, "min_delta": 0.0}
STEPS, EVERY = 12, 3
IDS = torch.randint(0, 90, (64, 8), generator=torch.Generator().manual_seed(0))
TEXTS = [{"input_ids": row, "labels": row} for row in IDS]


class Recorder(TrainerCallback):
    """What a reporter sees that a Trainer puts before the user's callbacks, as it does those to TensorBoard."""

    def __init__(self) -> None:
        self.logs: list[tuple[int, dict[str, float]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **more: Any) -> None:
        self.logs.append((state.global_step, dict(logs)))


def trainer(folder: Path, callbacks: list[Any], model: nn.Module | None = None, **settings: Any) -> Trainer:
    """A Trainer of a small GPT-2, two batches an update; GPT-2 drops at seven places in a batch."""
    torch.manual_seed(0)
    arguments = {
        "max_steps": STEPS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "eval_strategy": "steps", "eval_steps": EVERY, "save_steps": 6, "logging_steps": EVERY, "report_to": [],
        "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-2, "output_dir": str(folder),
    } | settings  # fmt: skip
    return Trainer(
        model=model or MODELS["gpt2"][0](),
        args=TrainingArguments(**arguments),
        train_dataset=TEXTS,
        eval_dataset=TEXTS[:8],
        callbacks=callbacks,
    )


def watched(training: Trainer, calls: int = 7, **more: Any) -> list[float]:
    """Trains; returns the rate of each update, which all its calls must share."""
    with Watch() as watch:
        training.train(**more)
    rates = [rate for rate in watch.rates if rate]
    updates = [rates[i : i + 2 * calls] for i in range(0, len(rates), 2 * calls)]
    assert all(len(update) == 2 * calls and len(set(update)) == 1 for update in updates)
    return [update[0] for update in updates]


def losses(training: Trainer) -> list[float]:
    return [entry["eval_loss"] for entry in training.state.log_history if "eval_loss" in entry]


def expected(schedule: dict[str, Any], evaluations: list[float]) -> list[float]:
    """The rates of the updates by the schedule alone; evaluations come after every third update."""
    driven, rates = from_dict(schedule), []
    for step in range(STEPS):
        rates.append(driven.rate(step / STEPS))
        if (step + 1) % EVERY == 0:
            driven.observe(evaluations[step // EVERY])
    return rates


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trainer, list[float]]:
    """An uninterrupted run with a steered schedule."""
    folder = tmp_path_factory.mktemp("steered")
    training = trainer(folder, [HuggingFaceDropout(STEERED)])
    return folder, training, watched(training)


def test_each_update_drops_with_the_schedules_rate(tmp_path: Path) -> None:
    recorder = Recorder()
    model = MODELS["gpt2"][0]()
    training = trainer(tmp_path, [recorder, HuggingFaceDropout(FALLING)], model)
    assert watched(training) == expected(FALLING, [0.0] * STEPS)
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.1}
    rates = from_dict(FALLING)
    logged = [(step, rates.rate((step - 1) / STEPS)) for step in (3, 6, 9, 12)]
    assert [(step, logs["dropout_rate"]) for step, logs in recorder.logs if "loss" in logs] == logged
    history = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())["log_history"]
    assert [(entry["step"], entry["dropout_rate"]) for entry in history if "loss" in entry] == logged
    assert not any("dropout_rate" in logs for _, logs in recorder.logs if "loss" not in logs)


def test_evaluations_steer(steered: tuple[Path, Trainer, list[float]]) -> None:
    _, training, rates = steered
    assert rates == expected(STEERED, losses(training))
    assert len(set(rates)) > 2


def test_a_resumed_training_drops_as_an_uninterrupted_one(steered: tuple[Path, Trainer, list[float]]) -> None:
    folder, training, rates = steered
    resumed = trainer(folder, [HuggingFaceDropout(STEERED)])
    assert watched(resumed, resume_from_checkpoint=str(folder / "checkpoint-6")) == rates[6:]
    assert losses(resumed) == losses(training)


def test_an_evaluation_that_a_resumed_training_repeats_is_heard_once(tmp_path: Path) -> None:
    callback = HuggingFaceDropout(STEERED)
    whole = trainer(tmp_path, [callback], eval_on_start=True)
    rates = watched(whole)
    resumed = trainer(tmp_path, [HuggingFaceDropout(STEERED)], eval_on_start=True)
    assert watched(resumed, resume_from_checkpoint=str(tmp_path / "checkpoint-6")) == rates[6:]
    state = callback.driver.state_dict()
    whole.state.global_step += 1  # as if the training had ended between two evaluations
    whole.evaluate()
    assert callback.driver.state_dict() == state, "the training is over"


@pytest.mark.parametrize("name", ["gpt2", "persimmon"])
def test_checkpoints_and_the_final_model_have_the_users_rates(name: str, tmp_path: Path) -> None:
    model = MODELS[name][0](attn_implementation="eager")
    before = {key: value for key, value in model.config.to_diff_dict().items() if "drop" in key}
    training = trainer(tmp_path, [HuggingFaceDropout(FALLING)], model, save_steps=4, eval_strategy="no")
    calls = 7 if name == "gpt2" else 4
    assert watched(training, calls) == expected(FALLING, [0.0] * STEPS)
    training.save_model(str(tmp_path / "final"))
    for folder in ("checkpoint-4", "checkpoint-8", "checkpoint-12", "final"):
        saved = json.loads((tmp_path / folder / "config.json").read_text())
        assert {key: saved[key] for key in before} == before


def test_a_compiled_training_drops_through_this_projects_sites(tmp_path: Path) -> None:
    model = MODELS["gpt2"][0]()
    before = dict(model.named_modules())
    training = trainer(tmp_path, [HuggingFaceDropout(FALLING, compiled=True)], model, max_steps=2)
    assert watched(training) == [], "no call drops with a number"
    assert dict(model.named_modules()) == before


def test_a_steered_schedule_without_its_evaluations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^a val_loss schedule listens to evaluations, and eval_strategy is no"):
        trainer(tmp_path, [HuggingFaceDropout(STEERED)], eval_strategy="no").train()
    with pytest.raises(ValueError, match=r"^evaluations give no eval_perplexity .* but .*eval_loss.*: give monitor=$"):
        trainer(tmp_path, [HuggingFaceDropout(STEERED, monitor="perplexity")]).train()


def test_an_interrupted_training_leaves_no_rate_behind(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, *args: Any, **more: Any) -> None:
            raise KeyboardInterrupt

    callback = HuggingFaceDropout({"kind": "constant", "rate": 0.0})
    model = MODELS["gpt2"][0]()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, [callback, Stop()], model).train()
    trainer(tmp_path, [callback], model, max_steps=1, eval_strategy="no").train()
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.1}


def test_a_schedule_file_that_is_wrong_is_refused_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kind of a schedule"):
        HuggingFaceDropout({"kind": "linearr"})
    with pytest.raises(FileNotFoundError):
        HuggingFaceDropout(tmp_path / "absent.yaml")
