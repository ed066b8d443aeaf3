"""A compiled model whose rates change: compiled once, the same in evaluation, and put back as it was."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from model.drive import Driver
from tests.hugging_face_models import MODELS
from tests.watched_dropout import Watch

FALLING = {"kind": "linear", "initial_rate": 0.4, "final_rate": 0.0}
STEERED = {"kind": "val_loss", "initial_rate": 0.4, "final_rate": 0.2, "factor": 0.5, "patience": 1, "min_delta": 0.0}
STEPS = 30
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def graphs(model: nn.Module, inputs: dict[str, Tensor], driver: Driver) -> int:
    """Returns how many graphs a training of all rates compiles, the rate of the end included."""
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter)
    for step in range(STEPS + 1):
        driver.before_step(step)
        compiled(**inputs)
    return int(counter.frame_count)


@pytest.mark.parametrize(
    "name", ["gpt2", pytest.param("llama", marks=pytest.mark.slow), pytest.param("bert", marks=pytest.mark.slow)]
)
def test_thirty_rates_compile_two_graphs_at_most(name: str) -> None:
    make, inputs = MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make()
        driver = Driver(model, FALLING, steps=STEPS, compiled=True)
    assert graphs(model, inputs, driver) <= 2  # with dropout, and without at the end


@pytest.mark.slow
@pytest.mark.parametrize("depth", [{"kind": "rising"}, {"kind": "annealed", "until": 0.7}])
def test_a_depth_compiles_no_more(depth: dict[str, Any]) -> None:
    make, inputs = MODELS["gpt2"]
    model = make()
    driver = Driver(model, {"schedule": FALLING, "depth": depth}, steps=STEPS, compiled=True)
    assert graphs(model, inputs, driver) <= 2


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("persimmon", "data2vec_vision", "opt")])
def test_evaluation_equals_the_unchanged_models_eager_attention(name: str) -> None:
    make, inputs = MODELS[name]
    expected = make(attn_implementation="eager").eval()(**inputs).logits
    model = make()
    driver = Driver(model, FALLING, steps=STEPS, compiled=True)
    driver.before_step(0)
    assert torch.equal(model.eval()(**inputs).logits, expected)
    driver.before_step(STEPS)
    assert torch.equal(model.train()(**inputs).logits, expected), "at rate 0 it is as in evaluation"
    driver.restore()
    torch.manual_seed(0)  # of 65,536 elements one is dropped, and with this seed none is
    Driver(model, {"kind": "constant", "rate": 2**-16}, steps=STEPS, compiled=True).before_step(0)
    torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-3, atol=1e-4)


class Draws(Watch):
    """Counts the masks that this project's sites draw, beside the calls that drop."""

    def __init__(self) -> None:
        super().__init__()
        self.masks = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.masks += getattr(func, "__name__", "") == "random_"
        return super().__torch_function__(func, types, args, kwargs)


@pytest.mark.filterwarnings("ignore:compiled=True cannot replace")
@pytest.mark.parametrize("name", MODELS)
def test_every_call_that_dropped_draws_one_mask(name: str) -> None:
    make, inputs = MODELS[name]
    model = make()
    with Watch() as before:
        model(**inputs)
    driver = Driver(model, {"kind": "constant", "rate": 0.3}, steps=STEPS, compiled=True)
    driver.before_step(0)
    with Draws() as now:
        model(**inputs)
    left = [rate for rate in now.rates if rate]
    assert left == [0.3] * len(left)
    assert now.masks + len(left) == len(before.rates)
    if name not in ("opt", "persimmon", "data2vec_vision"):
        assert not left


def test_attention_drops_the_share_of_the_probabilities_that_the_rate_says() -> None:
    make, inputs = MODELS["llama"]
    model = make(output_attentions=True, attn_implementation="eager")
    kept = model.eval()(**inputs).attentions
    driver = Driver(model, {"kind": "constant", "rate": 0.25}, steps=1, compiled=True)
    driver.before_step(0)
    dropped = seen = 0
    for _ in range(50):
        now = model.train()(**inputs).attentions[0]
        mask = now == 0
        torch.testing.assert_close(now[~mask], kept[0][~mask] / 0.75)
        dropped += int((mask & (kept[0] > 0)).sum())
        seen += int((kept[0] > 0).sum())
    assert dropped / seen == pytest.approx(0.25, abs=6 * (0.25 * 0.75 / seen) ** 0.5)


def test_sites_that_are_not_driven_keep_their_rate() -> None:
    make, inputs = MODELS["bert"]
    model = make()
    driver = Driver(model, FALLING, steps=STEPS, skip=r"attention\.self", compiled=True)
    driver.before_step(2)
    with Watch() as watch:
        model(**inputs)
    assert watch.rates == [0.1, 0.1]
    model = make()
    Driver(model, FALLING, steps=STEPS, skip=r"layer\.0\.attention\.self", compiled=True).before_step(2)
    with Watch() as watch:
        model(**inputs)
    assert [rate for rate in watch.rates if rate] == [0.1]


def test_restore_puts_back_the_users_modules() -> None:
    make, inputs = MODELS["gpt2"]
    model = make()
    modules, config = dict(model.named_modules()), copy.deepcopy(model.config)
    with Watch() as before:
        model(**inputs)
    with Driver(model, FALLING, steps=STEPS, compiled=True) as driver:
        driver.before_step(2)
        assert "dynamic_dropout" not in model.config.to_json_string()
        assert dict(model.named_modules()) != modules
        assert model.state_dict().keys() == make().state_dict().keys()
    assert dict(model.named_modules()) == modules
    assert model.config.to_dict() == config.to_dict()
    assert model.config._attn_implementation == config._attn_implementation
    with Watch() as after:
        model(**inputs)
    assert after.seen == before.seen
    driver.before_step(2)
    assert dict(model.named_modules()) != modules, "a later step drives again"


def test_what_cannot_be_replaced_is_named_and_takes_five_rates() -> None:
    model = MODELS["opt"][0]()
    with pytest.warns(
        UserWarning, match=r"cannot replace .* 5 rates at most: model\.decoder\.dropout \(0\.1\), .*layers\.1"
    ):
        driver = Driver(model, FALLING, steps=STEPS, compiled=True)
    rates = set()
    for step in range(STEPS + 1):
        driver.before_step(step)
        rates.add(model.model.decoder.dropout)
        assert model.model.decoder.dropout == pytest.approx(driver.rate, abs=0.4 / 8 + 1e-9)
    assert sorted(rates) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:compiled=True cannot replace")
def test_five_rates_compile_six_graphs_at_most() -> None:
    make, inputs = MODELS["opt"]
    model = make()
    assert graphs(model, inputs, Driver(model, FALLING, steps=STEPS, compiled=True)) <= 6  # and one without dropout


class Timm(nn.Module):
    """Attention that reads a dropout module's rate, and a head with a float, as timm's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.attn_drop = nn.Dropout(0.1)
        self.proj_drop = nn.Dropout(0.1)
        self.drop_rate = 0.1

    def forward(self, x: Tensor) -> Tensor:
        x = F.scaled_dot_product_attention(x, x, x, dropout_p=self.attn_drop.p if self.training else 0.0)
        return F.dropout(self.proj_drop(x), self.drop_rate, self.training)


@pytest.mark.parametrize("schedule", [FALLING, STEERED], ids=["open loop", "steered"])
def test_a_module_whose_rate_is_read_stays(schedule: dict[str, Any]) -> None:
    model = Timm()
    with pytest.warns(UserWarning, match=r"drop_rate \(0\.1\), attn_drop\.p \(0\.1\)$"):
        driver = Driver(model, schedule, steps=STEPS, compiled=True)
    rates = set()
    for step in range(STEPS):
        driver.before_step(step)
        driver.observe(-step)
        with Watch() as watch:
            model(torch.ones(1, 2, 4, 4))
        rates |= set(watch.rates)
        assert len(watch.rates) == 2
    assert 3 <= len(rates) <= 5
    assert max(rates) == 0.4


def test_a_depth_over_time_needs_sites_that_can_be_replaced() -> None:
    annealed = {"schedule": FALLING, "depth": {"kind": "annealed", "until": 0.5}}
    model = nn.Sequential(Timm(), nn.Dropout(0.1))
    with pytest.raises(
        ValueError, match=r"^depth annealed .* 0\.drop_rate \(0\.1\), 0\.attn_drop\.p \(0\.1\): give skip="
    ):
        Driver(model, annealed, steps=STEPS, compiled=True)
    assert type(model[1]) is nn.Dropout
    driver = Driver(model, annealed, steps=STEPS, compiled=True, skip="^0")
    driver.before_step(0)
    assert driver.sites == {"1.p": pytest.approx(0.4, abs=1e-5)}


def test_dropouts_with_hooks_or_of_other_kinds_stay() -> None:
    model = nn.Sequential(nn.Dropout(0.1), nn.Dropout2d(0.1), nn.Dropout(0.1), nn.MultiheadAttention(4, 2, dropout=0.1))
    calls: list[int] = []
    model[0].register_forward_hook(lambda *args: calls.append(1))
    with pytest.warns(UserWarning, match=r"most: 0\.p \(0\.1\), 1\.p \(0\.1\), 3\.dropout \(0\.1\)$"):
        Driver(model, FALLING, steps=STEPS, compiled=True)


def test_one_module_in_two_places_is_replaced_in_both() -> None:
    shared = nn.Dropout(0.1)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)})
    with Driver(model, {"kind": "constant", "rate": 0.9}, steps=STEPS, compiled=True) as driver:
        driver.before_step(0)
        assert model["a"] is model["b"][0] is not shared
        assert 0.8 < float((model["a"](torch.ones(10_000)) == 0).float().mean()) < 1
        model.eval()
    assert model["a"] is model["b"][0] is shared
    assert not shared.training


def test_a_compiled_model_without_compiled_is_warned_about() -> None:
    model = torch.compile(nn.Sequential(nn.Dropout(0.1)), backend="eager")
    with pytest.warns(UserWarning, match="compiled=True"):
        Driver(model, FALLING, steps=STEPS)
