"""The configuration of a run of the task sentences, and its presets."""

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, Self

from study.base.cli import described
from study.base.errors import UserError
from study.training.config import Preset, TrainingConfig

SENTENCES = "sentences"
Stage = Literal["language", "unsupervised", "supervised"]
STAGES: tuple[Stage, ...] = ("language", "unsupervised", "supervised")


@dataclass(frozen=True, kw_only=True)
class SentencesConfig(TrainingConfig):
    """All that decides a run of the task sentences but its regularizer.

    Three stages in a row, whose steps sum to `steps`: language modelling, unsupervised SimCSE, supervised SimCSE. A
    stage of 0 steps is left out. One learning rate falls over all three. A batch has `batch_size` verses in each stage:
    so many rows in the first, twice as many in the second, and in the third three times as many.

    Raises:
        UserError: names the field and the value that it refuses.
    """

    task: str = SENTENCES
    block_size: int = described("characters that are read of a verse, also the model's context")
    batch_size: int = described("verses a step")
    corpus: str = described("verses (needs the extra sentences), or the path of a text file of verses", "verses")
    language_steps: int = described("steps of language modelling on KJV verses", least=0)
    unsupervised_steps: int = described(
        "steps of SimCSE on two views of each KJV verse, which differ in dropout", least=0
    )
    supervised_steps: int = described("steps of SimCSE on each verse in KJV and YLT", least=0)
    temperature: float = described("of the softmax over cosines", 0.05, range=("above 0", 1e-30, 1e30))
    hard_negatives: bool = described(
        "whether a supervised step has the YLT of the batch's next verses as negatives too", True, negatable=True
    )
    chapter_negatives: int = described(
        "verses in a row that a batch takes of each of its chapters; 1: no two on purpose", 1
    )
    pairs_per_grade: int = described("pairs of each grade that an evaluation compares, at most", 300, least=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task != SENTENCES:
            raise UserError(f"task must be {SENTENCES}, got {self.task}")
        steps = [self.language_steps, self.unsupervised_steps, self.supervised_steps]
        if sum(steps) != self.steps:
            raise UserError(
                f"the stages must have {self.steps} steps together, got {' + '.join(map(str, steps))} = {sum(steps)}: "
                "change --steps, --language-steps, --unsupervised-steps or --supervised-steps"
            )
        if self.batch_size % self.chapter_negatives:
            raise UserError(
                f"batch_size must be a multiple of chapter_negatives, got {self.batch_size} and "
                f"{self.chapter_negatives}"
            )
        if self.batch_size == 1 and steps != [self.steps, 0, 0]:
            raise UserError("batch_size must be at least 2, got 1: the other verses of a batch are the negatives")
        for name, default in (("train_chars", 0), ("val_share", 1.0)):
            if getattr(self, name) != default:
                raise UserError(f"the task {SENTENCES} has no {name}, got {getattr(self, name)}")

    def stage(self, step: int) -> Stage:
        """Returns the stage of the update `step`; at the end, that of the last one."""
        step = min(step, self.steps - 1)
        if step < self.language_steps:
            return "language"
        return "unsupervised" if step < self.language_steps + self.unsupervised_steps else "supervised"

    def stage_end(self, step: int) -> int:
        """Returns the step at which the stage of the update `step` is over."""
        ends = (self.language_steps, self.language_steps + self.unsupervised_steps, self.steps)
        return next(end for end in ends if step < end)

    def with_steps(self, steps: int) -> Self:
        """Returns this config with another length, shared among the stages as they were; rounding is the last one's."""
        first, second = (n * steps // self.steps for n in (self.language_steps, self.unsupervised_steps))
        return replace(
            self,
            steps=steps,
            language_steps=first,
            unsupervised_steps=second,
            supervised_steps=steps - first - second,
        )


SENTENCES_PRESETS: dict[str, Preset] = {
    # Seconds: to see that everything works.
    "smoke": Preset(
        training=SentencesConfig(
            n_layer=1, n_head=2, n_embd=32, block_size=32, batch_size=8, steps=60, learning_rate=1e-2,
            min_learning_rate=1e-3, warmup_steps=5, eval_interval=10, language_steps=30, unsupervised_steps=15,
            supervised_steps=15, pairs_per_grade=30,
        ),
        on_cuda=MappingProxyType({"cuda_graphs": True}),
        trials=6,
        grace_share=0.84,
    ),
    # A minute and a half a trial on one core that is free.
    "laptop": Preset(
        training=SentencesConfig(
            n_layer=2, n_head=4, n_embd=128, block_size=64, batch_size=32, steps=400, learning_rate=2e-3,
            min_learning_rate=1e-4, warmup_steps=20, eval_interval=80, language_steps=160, unsupervised_steps=80,
            supervised_steps=160, pairs_per_grade=100,
        ),
        on_cuda=MappingProxyType({"cuda_graphs": True}),
        trials=12,
        grace_share=0.8,
    ),
    # nanoGPT's baby GPT, with half its context, 4 times its verses a step.
    "gpu": Preset(
        training=SentencesConfig(
            n_layer=6, n_head=6, n_embd=384, block_size=128, batch_size=256, steps=9000, learning_rate=1e-3,
            min_learning_rate=1e-4, warmup_steps=100, eval_interval=500, language_steps=5000, unsupervised_steps=2000,
            supervised_steps=2000,
        ),
        on_cuda=MappingProxyType({"dtype": "bfloat16", "compile": True, "cuda_graphs": True}),
        trials=24,
        grace_share=0.84,
    ),
}  # fmt: skip
"""Grace: the score of an earlier stage says little about that of a later one."""
