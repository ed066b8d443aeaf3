"""The model's shape, and whether corpus and family fit a training config."""

from model.gpt import GPTConfig
from model.regularizer import Regularizer
from study.base.errors import UserError
from study.corpus import Corpus
from study.training.config import TrainingConfig


def gpt_config(config: TrainingConfig, vocab_size: int) -> GPTConfig:
    """Returns the model's shape."""
    return GPTConfig(
        vocab_size=vocab_size,
        block_size=config.block_size,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        bias=config.bias,
    )


def check_fits(config: TrainingConfig, corpus: Corpus, regularizer: Regularizer | None = None) -> None:
    """Raises UserError if the family does not fit, or a split of the corpus is shorter than a context and a token."""
    if regularizer is not None:
        try:
            regularizer.family.check_heads(config.n_embd // config.n_head)
        except ValueError as error:
            raise UserError(str(error)) from None
    sizes = {name: len(corpus.split(name)) for name in ("train", "val", "test")}
    if config.train_chars:
        sizes["train"] = min(sizes["train"], config.train_chars)
    name = min(sizes, key=lambda name: sizes[name])
    if sizes[name] <= config.block_size:
        raise UserError(
            f"corpus {config.corpus} is too short: its {name} split has {sizes[name]} characters and a context needs "
            f"{config.block_size + 1}: give a longer text, or a smaller --block-size"
        )
