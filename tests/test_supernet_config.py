"""The configs of a supernet and of its sizes, its presets, and its search space."""

from dataclasses import asdict, replace
from typing import Any

import optuna
import pytest

from model.regularizer import Regularizer
from model.size import KINDS
from search_spaces import supernet as space
from study.base.errors import UserError
from study.training.config import PRESETS
from study.training.fits import gpt_config
from study.training.supernet_config import SUPERNET_PRESETS, SubnetConfig, SupernetConfig, subnet_training
from study.training.task_config import read_config
from tests.small_supernet import CONFIG, PLAIN, SIZES


def test_configs_are_told_by_their_keys() -> None:
    for config in (CONFIG, PLAIN, subnet_training(CONFIG, SIZES[1])):
        again = read_config(asdict(config))
        assert type(again) is type(config)
        assert again == config
    assert gpt_config(CONFIG, 9) == gpt_config(PLAIN, 9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sizes": "0.5,2 0.25,1"}, "sizes must begin with the whole model, 1,2, got '0.5,2 0.25,1'"),
        ({"sizes": "1,1 0.5,1"}, "sizes must begin with the whole model, 1,2"),
        ({"sizes": "1,2"}, "sizes must be two or more, none twice, the smallest last"),
        ({"sizes": "1,2 0.5,2 0.5,2"}, "sizes must be two or more, none twice, the smallest last"),
        ({"sizes": "1,2 0.25,1 0.5,2"}, "sizes must be two or more, none twice, the smallest last"),
        ({"sizes": "1,2 1/3,2"}, "size 1/3,2 must have a whole number of the 4 heads and of the 64 hidden units: give"),
        ({"sizes": "1,2 0.5,3"}, "size 0.5,3 must have at most 2 blocks"),
        ({"sizes": ""}, "sizes must begin with"),
        ({"sizes": "1,2 half,1"}, "a size must be WIDTH,DEPTH, as in 0.5,2 or 1/3,2, got 'half,1'"),
        ({"n_random": 4}, "n_random must be at most 3"),
        ({"distillation": 1.5}, "distillation must be a number in [0, 1], got 1.5"),
        ({"importance_clip": 0.5}, "importance_clip must be a number of at least 1"),
        ({"alpha_low": 11}, "alpha_low must be a number from -10 to 10"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, scaled_adam, got 'sgd'"),
        ({"cuda_graphs": True}, "cuda_graphs must be false for a supernet"),
    ],
)
def test_a_wrong_config_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        replace(CONFIG, **change)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_size_alone_is_refused() -> None:
    with pytest.raises(UserError, match="n_embd must be a multiple of head_size, got 16 and 5"):
        SubnetConfig(**asdict(PLAIN), head_size=5, n_hidden=8)


@pytest.mark.parametrize("name", SUPERNET_PRESETS)
def test_presets_are_those_of_the_language_model_with_sizes(name: str) -> None:
    preset = SUPERNET_PRESETS[name]
    own, plain = asdict(preset.training), asdict(PRESETS[name].training)
    assert {key: own[key] for key in plain} == plain
    SupernetConfig.from_dict(own | dict(preset.on_cuda))


def test_the_space_searches_the_rule() -> None:
    rules = set()
    for _, parameters in space.KNOWN_GOOD.items():
        suggested = space.suggest(optuna.trial.FixedTrial(parameters))  # type: ignore[arg-type]
        assert suggested.keys() == {"schedule", "size_rule"}
        rules.add(Regularizer.from_dict(suggested).size_rule)
    assert rules == {rule() for rule in KINDS.values()}
