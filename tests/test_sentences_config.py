"""The config of the task sentences, its stages, and its presets."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from study.base.errors import UserError
from study.training.config import TrainingConfig
from study.training.sentences_config import SENTENCES_PRESETS, SentencesConfig
from tests.verse_text import SENTENCES_CONFIG as CONFIG


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 15}, r"the stages must have 15 steps together, got 5 \+ 5 \+ 4 = 14"),
        ({"language_steps": -1}, "language_steps must be"),
        ({"temperature": 0.0}, "temperature must be .*above 0"),
        ({"chapter_negatives": 4}, "batch_size must be a multiple of chapter_negatives, got 6 and 4"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"pairs_per_grade": 1}, "pairs_per_grade must be"),
        ({"train_chars": 5}, "the task sentences has no train_chars, got 5"),
        ({"val_share": 0.5}, r"the task sentences has no val_share, got 0\.5"),
        ({"task": "supernet"}, "task must be sentences, got supernet"),
        ({"hard_negatives": 1}, "hard_negatives must be a bool"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(CONFIG, **changes)


def test_a_config_comes_back_from_a_dict() -> None:
    again = SentencesConfig.from_dict(asdict(CONFIG))
    assert again == CONFIG
    assert isinstance(again, TrainingConfig)
    with pytest.raises(UserError, match="needs language_steps"):
        SentencesConfig.from_dict({k: v for k, v in asdict(CONFIG).items() if k != "language_steps"})


def test_stages_follow_each_other_and_may_be_left_out() -> None:
    stages = [CONFIG.stage(step) for step in range(15)]
    assert stages == ["language"] * 5 + ["unsupervised"] * 5 + ["supervised"] * 5
    assert [CONFIG.stage_end(step) for step in (0, 4, 5, 9, 10, 13)] == [5, 5, 10, 10, 14, 14]
    alone = replace(CONFIG, language_steps=0, unsupervised_steps=0, supervised_steps=14)
    assert {alone.stage(step) for step in range(15)} == {"supervised"}
    assert alone.stage_end(0) == 14
    scaled = CONFIG.with_steps(28)
    assert (scaled.language_steps, scaled.unsupervised_steps, scaled.supervised_steps) == (10, 10, 8)
    assert CONFIG.with_steps(3).steps == 3


@pytest.mark.parametrize("name", SENTENCES_PRESETS)
def test_presets_begin_with_two_views_where_their_space_has_dropout(name: str) -> None:
    """As the space sentences says of curriculum dropout. And no trial is stopped before its last stage."""
    preset = SENTENCES_PRESETS[name]
    config = preset.training
    assert isinstance(config, SentencesConfig)
    assert config.language_steps >= 0.4 * config.steps
    assert preset.grace_share * config.steps > config.language_steps + config.unsupervised_steps
    assert config.steps % config.eval_interval == 0
