"""A driver reaches every rate of other people's models: seen at the calls that drop, not in its list of sites."""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

import pytest
import torch
from torch import nn

from model.drive import Driver
from tests.hugging_face_models import MODELS
from tests.watched_dropout import Watch

pytestmark = pytest.mark.usefixtures("one_thread")
FALLING = {"kind": "linear", "initial_rate": 0.4, "final_rate": 0.0}


def rates_of(model: nn.Module, inputs: dict[str, torch.Tensor]) -> list[float]:
    with Watch() as watch:
        model(**inputs)
    return watch.rates


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MODELS)
def test_every_call_that_drops_gets_the_rate(name: str, attention: str) -> None:
    make, inputs = MODELS[name]
    model = make(attn_implementation=attention)
    before = rates_of(model, inputs)
    assert min(before) > 0, "the model drops everywhere"
    driver = Driver(model, FALLING, steps=10)
    driver.before_step(2)
    assert rates_of(model, inputs) == [0.4 * 0.8] * len(before)
    assert set(driver.sites.values()) == {0.4 * 0.8}
    assert set(rates_of(model.eval(), inputs)) == {0.0}
    driver.restore()
    assert rates_of(model.train(), inputs) == before


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "opt"])
def test_the_masks_of_every_layer_follow_the_rate(name: str) -> None:
    make, inputs = MODELS[name]
    model = make()
    layers = [module for path, module in model.named_modules() if path.endswith((".0", ".1"))]
    outputs: list[torch.Tensor] = []
    for layer in layers:
        layer.register_forward_hook(
            lambda module, args, output: outputs.append(output[0] if isinstance(output, tuple) else output)
        )

    def twice() -> list[tuple[torch.Tensor, torch.Tensor]]:
        outputs.clear()
        for _ in range(2):
            model(**inputs)
        half = len(outputs) // 2
        assert half >= 2
        return list(zip(outputs[:half], outputs[half:], strict=True))

    driver = Driver(model, {"kind": "late", "peak_rate": 0.9, "cutoff": 0.5}, steps=10)
    driver.before_step(0)
    assert all(torch.equal(first, second) for first, second in twice())
    driver.before_step(5)
    assert not any(torch.equal(first, second) for first, second in twice())


@pytest.mark.parametrize("name", ["persimmon", "data2vec_vision"])
def test_a_config_that_is_read_when_the_model_runs_is_saved_with_the_users_rates(name: str, tmp_path: Path) -> None:
    make, inputs = MODELS[name]
    model = make(attn_implementation="sdpa")
    before = model.config.to_diff_dict()
    driver = Driver(model, FALLING, steps=10)
    assert any("config." in site for site in driver.sites)
    driver.before_step(2)
    driver.restore_configs()
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {key: saved.get(key) for key in before if "drop" in key} == {k: v for k, v in before.items() if "drop" in k}
    driver.before_step(3)
    assert set(rates_of(model, inputs)) == {0.4 * 0.7}


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("persimmon", "data2vec_vision")])
def test_other_models_are_saved_with_the_users_rates_at_any_time(name: str) -> None:
    model = MODELS[name][0]()
    before = model.config.to_dict()
    Driver(model, FALLING, steps=10).before_step(2)
    assert model.config.to_dict() == before


def test_a_model_whose_rates_are_all_zero_is_refused_with_its_sites() -> None:
    model = MODELS["llama"][0]()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.0
    with pytest.raises(
        ValueError, match=r"only=.*model\.layers\.0\.self_attn\.attention_dropout \(0\), model\.layers\.1"
    ):
        Driver(model, FALLING, steps=10)
    driver = Driver(model, FALLING, steps=10, only="attention_dropout")
    driver.before_step(0)
    assert rates_of(model, MODELS["llama"][1]) == [0.4, 0.4]
