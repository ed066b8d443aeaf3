"""A driver on plain torch modules and on our GPT: which sites it finds, what it writes, what it refuses."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.drive import Driver, read_schedule
from model.gpt import GPT, GPTConfig
from model.regularizer import Regularizer
from tests.watched_dropout import Watch

FALLING = {"kind": "linear", "initial_rate": 0.4, "final_rate": 0.0}
STEERED = {"kind": "val_loss", "initial_rate": 0.4, "final_rate": 0.0, "factor": 0.5, "patience": 1, "min_delta": 0.0}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1), nn.Linear(8, 8), nn.AlphaDropout(0.2), nn.Dropout1d(0.3))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, num_layers=2, dropout=0.1)
        self.gru = nn.GRU(8, 8, num_layers=2, dropout=0.2)
        self.single = nn.LSTM(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.single(self.gru(self.lstm(x)[0])[0])[0]
        return out


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, need_weights=True)[0]
        return out


class Fused(nn.Module):
    """Attention as in nanoGPT: a float beside a module that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = 0.2
        self.attn_dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, dropout_p=self.dropout if self.training else 0.0)


PLAIN: dict[str, tuple[Any, Tensor, int]] = {
    "mlp": (mlp, torch.ones(4, 8), 3),
    "recurrent": (Recurrent, torch.ones(3, 4, 8), 2),
    "attention": (SelfAttention, torch.ones(3, 4, 8), 1),
    "fused": (Fused, torch.ones(3, 4, 8), 2),
    "transformer": (
        lambda: nn.TransformerDecoderLayer(8, 2, 16, dropout=0.1), torch.ones(3, 4, 8), 6),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_every_call_that_drops_in_plain_torch_gets_the_rate(name: str) -> None:
    make, x, sites = PLAIN[name]
    model = make()
    inputs = (x, x) if name == "transformer" else (x,)

    def rates() -> list[float]:
        with Watch() as watch:
            model(*inputs)
        return watch.rates

    before = [rate for rate in rates() if rate]
    assert before
    driver = Driver(model, FALLING, steps=10)
    assert len(driver.sites) == sites
    driver.before_step(2)
    assert [rate for rate in rates() if rate] == [0.4 * 0.8] * len(before)
    model.eval()
    assert not any(rates())
    driver.restore()
    model.train()
    assert [rate for rate in rates() if rate] == before


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_a_whole_transformer_is_driven() -> None:
    model = nn.Transformer(8, 2, 2, 2, 16, dropout=0.1)
    driver = Driver(model, FALLING, steps=10)
    driver.before_step(2)
    with Watch() as watch:
        model(torch.ones(3, 4, 8), torch.ones(3, 4, 8))
    # Each of 2 + 2 layers: attention, and three dropouts; a decoder's layer has one more of both.
    assert watch.rates == [0.4 * 0.8] * (2 * 4 + 2 * 6)


class OddDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = 0.1


class DropPath(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop_prob = 0.1
        self.p = 0.1


class Names(nn.Module):
    hidden_dropout = 0.3
    """A class's attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.layerdrop = self.layer_dropout = self.drop_path_rate = self.token_dropout = self.dropout_positions = 0.1
        self.router_prob_before_dropping = self.drop_connect_rate = 0.1
        self.use_dropout, self.dropped, self.drop_last, self.dropout_name = True, 3, 1.0, "drop"
        self.drop_rate, self.unused_dropout = 0.2, 0
        self.odd, self.path = OddDropout(), DropPath()


def test_names_that_are_no_rate_are_left_out() -> None:
    model = Names()
    assert Driver(model, FALLING, steps=10).sites == {"hidden_dropout": 0.3, "drop_rate": 0.2, "odd.p": 0.1}
    assert set(Driver(model, FALLING, steps=10, only="unused|odd").sites) == {"unused_dropout", "odd.p"}
    assert set(Driver(model, FALLING, steps=10, skip="odd|hidden").sites) == {"drop_rate"}
    with Driver(model, FALLING, steps=10) as driver:
        driver.before_step(0)
        assert (model.hidden_dropout, Names.hidden_dropout, model.layerdrop, model.path.p) == (0.4, 0.3, 0.1, 0.1)
    assert (model.hidden_dropout, model.odd.p) == (0.3, 0.1)


@dataclass(frozen=True)
class Config:
    dropout: float = 0.1
    attention_dropout: float = 0.1
    first_dropout: float = 0.1
    other_dropout: float = 0.1


class ReadsItsConfig(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.hparams = {"head_dropout": 0.1, "unread_dropout": 0.1, "dropout": config.first_dropout}

    def forward(self, x: Tensor) -> Tensor:
        settings = self.config
        x = F.dropout(x, settings.dropout, self.training)
        x = F.dropout(x, getattr(self.config, "attention_dropout"), self.training)  # noqa: B009
        return helper(self, F.dropout(x, self.hparams["head_dropout"], self.training))


def helper(module: nn.Module, x: Tensor) -> Tensor:
    return F.dropout(x, module.config.other_dropout, module.training)


def test_a_config_is_driven_where_it_is_read_when_the_model_runs() -> None:
    model = nn.Sequential(ReadsItsConfig(config := Config()), nn.Dropout(0.1))
    driver = Driver(model, FALLING, steps=10)
    driver.before_step(2)
    with Watch() as watch:
        model(torch.ones(4, 8))
    assert watch.rates == [0.4 * 0.8] * 5
    assert (config.first_dropout, model[0].hparams["unread_dropout"]) == (0.1, 0.1)
    driver.restore_configs()
    assert config == Config()
    assert model[0].hparams["head_dropout"] == 0.1
    assert model[1].p == 0.4 * 0.8
    driver.restore()
    assert model[1].p == 0.1


def test_a_model_without_a_rate_to_drive_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^Linear has no dropout to drive"):
        Driver(nn.Linear(2, 2), FALLING, steps=10)
    zero = nn.Sequential(nn.Dropout(0.0), nn.Dropout(0.0))
    with pytest.raises(ValueError, match=r"^all dropout rates of Sequential are 0: .*only=.* 0\.p \(0\), 1\.p \(0\)$"):
        Driver(zero, FALLING, steps=10)
    with pytest.raises(ValueError, match=r"^only='2', skip=None leave no site of Sequential, which has 0\.p"):
        Driver(zero, FALLING, steps=10, only="2")
    with pytest.raises(ValueError, match=r"^only must be a regular expression, got '\('"):
        Driver(zero, FALLING, steps=10, only="(")
    with pytest.raises(ValueError, match=r"^steps must be a whole number of at least 1"):
        Driver(mlp(), FALLING, steps=0)
    with pytest.raises(ValueError, match=r"^step must be at least 0, got -1"):
        Driver(mlp(), FALLING, steps=1).before_step(-1)
    many = nn.Sequential(*(nn.Dropout(0.0) for _ in range(50)))
    with pytest.raises(ValueError, match=r"39\.p \(0\) and 10 more$"):
        Driver(many, FALLING, steps=10)


def test_a_recurrent_layer_alone_has_no_dropout() -> None:
    lstm = nn.LSTM(8, 8)
    lstm.dropout = 0.3  # torch drops between layers only
    with pytest.raises(ValueError, match=r"^LSTM has no dropout to drive"):
        Driver(lstm, FALLING, steps=10)


def test_other_families_are_refused_and_the_error_says_what_is_possible() -> None:
    with pytest.raises(ValueError, match=r"^a Driver cannot drive the family .*dropblock.*family standard"):
        Driver(mlp(), {"schedule": FALLING, "family": {"kind": "dropblock", "block": 4}}, steps=10)


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Dropout(0.1)
        self.layers = nn.ModuleList(nn.ModuleDict({"a": nn.Dropout(0.1), "b": nn.Dropout(0.1)}) for _ in range(4))
        self.head = nn.Dropout(0.1)


@pytest.mark.parametrize("depth", [{"kind": "rising"}, {"kind": "falling"}, {"kind": "annealed", "until": 0.5}])
def test_the_first_number_in_a_path_is_the_block(depth: dict[str, Any]) -> None:
    d = {"schedule": {"kind": "constant", "rate": 0.2}, "depth": depth}
    driver = Driver(Deep(), d, steps=100)
    assert driver.before_step(20) == 0.2
    expected = Regularizer.from_dict(d).rates(0.2, 4)
    assert len(set(expected)) > 1
    blocks = {f"layers.{i}.{name}.p": expected[i] for i in range(4) for name in "ab"}
    assert driver.sites == {"embedding.p": expected[0], **blocks, "head.p": expected[3]}


def test_sites_that_are_left_alone_count_as_blocks() -> None:
    d = {"schedule": {"kind": "constant", "rate": 0.2}, "depth": {"kind": "rising"}}
    driver = Driver(Deep(), d, steps=100, only="3")
    driver.before_step(0)
    assert set(driver.sites.values()) == {Regularizer.from_dict(d).rates(0, 4)[3]}


def test_evaluations_steer_and_a_resumed_training_goes_on() -> None:
    losses = [3.0, 2.0, 2.5, 2.4, 1.0]

    def train(driver: Driver, steps: range) -> list[float]:
        rates = []
        for step in steps:
            rates.append(driver.before_step(step))
            driver.observe(torch.tensor(losses[step]))
        return rates

    whole = train(Driver(mlp(), STEERED, steps=5), range(5))
    assert whole == pytest.approx([0.4, 0.4, 0.2, 0.3, 0.35])
    first = Driver(mlp(), STEERED, steps=5)
    rates = train(first, range(3))
    second = Driver(mlp(), STEERED, steps=5)
    second.load_state_dict(first.state_dict())
    assert rates + train(second, range(3, 5)) == whole
    assert second.state_dict() == {"best": 1.0, "count": 0, "rate": whole[-1] / 2}


def test_after_the_last_step_the_rate_stays() -> None:
    driver = Driver(mlp(), {"kind": "linear", "initial_rate": 0.0, "final_rate": 0.5}, steps=4)
    assert driver.rate is None
    assert [driver.before_step(step) for step in (0, 4, 5)] == [0.0, 0.5, 0.5]


def test_our_gpt_is_driven_and_its_rate_is_put_back() -> None:
    gpt = GPT(GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=16))
    tokens = torch.arange(8).view(1, 8)
    with Driver(gpt, FALLING, steps=10) as driver:
        driver.before_step(5)
        assert all(rate == pytest.approx(0.2, abs=2**-17) for rate in driver.sites.values())
        assert not torch.equal(gpt(tokens)[0], gpt(tokens)[0])
        driver.before_step(10)
        assert torch.equal(gpt(tokens)[0], gpt(tokens)[0])
        driver.before_step(0)
    assert torch.equal(gpt(tokens)[0], gpt(tokens)[0])


def test_each_block_of_our_gpt_gets_its_rate_in_its_own_family() -> None:
    d = {"schedule": {"kind": "constant", "rate": 0.25}, "family": {"kind": "dropblock", "block": 4},
         "depth": {"kind": "falling"}}  # fmt: skip
    regularizer = read_schedule(d)
    config = GPTConfig(vocab_size=11, block_size=8, n_layer=3, n_head=2, n_embd=16)
    driver = Driver(GPT(config, regularizer.family), d, steps=10)
    driver.before_step(0)
    assert driver.sites == {"rates.0": 0.375, "rates.1": 0.25, "rates.2": 0.125}
    with pytest.raises(ValueError, match=r"^the GPT was made with family .*standard.*, the schedule has .*dropb"):
        Driver(GPT(config), d, steps=10)
    with pytest.raises(ValueError, match=r"^the GPT was made with family .*dropblock.*, the schedule has .*stand"):
        Driver(GPT(config, regularizer.family), FALLING, steps=10)
