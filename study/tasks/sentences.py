"""The task sentences: embeddings of verses by SimCSE, in which dropout is the training signal.

Gao, Yao & Chen 2021, "SimCSE: Simple contrastive learning of sentence embeddings"; both of its stages one after the
other, after language modelling, as in "2-Tier SimCSE" (Wang, Zhou & Wang 2025). The embedding of a verse is the mean of
the GPT's hidden states over its characters. val_loss is 1 - the Spearman correlation of verse similarity.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.contrast import info_nce
from model.dropout import set_rates
from model.gpt import IGNORED
from model.regularizer import Regularizer
from model.schedules import Schedule
from study.base.errors import UserError
from study.corpus import Corpus
from study.tasks.score_table import LEXICAL
from study.tasks.verse_scores import VerseTest
from study.tasks.verses import Part, Verses
from study.training.sentences_config import SentencesConfig
from study.training.trainer import Trainer

_LEXICAL_SCORES = ("spearman", "matched_spearman", "top1")


class SentencesTrainer(Trainer):
    """One run of the task sentences: a Trainer whose batches hold verses, and whose loss is that of the step's stage.

    A verse of a batch is drawn from the training chapters alone, in all stages; the same seed draws the same verses.

    Raises:
        UserError: if the corpus has another form or too few verses, or the family does not fit the config.
    """

    config: SentencesConfig
    reads_text = False

    def __init__(
        self,
        config: SentencesConfig,
        regularizer: Regularizer | Schedule | Mapping[str, Any],
        corpus: Corpus,
        device: str = "cpu",
    ) -> None:
        super().__init__(config, regularizer, corpus, device)
        self._hidden = self.model.hidden
        if config.compile:
            self._hidden = torch.compile(self.model.hidden, dynamic=False)

    def take_data(self, corpus: Corpus) -> None:
        self.verses = Verses.of(corpus)
        config, train = self.config, self.verses.part("train")
        _, first, of, sizes = np.unique(
            self.verses.chapters[train], return_index=True, return_inverse=True, return_counts=True
        )
        self._first, self._sizes, self._chapter = (self._on_device(x) for x in (first, sizes, of))
        starts = np.flatnonzero(sizes[of] >= max(2, config.chapter_negatives))  # so that no verse has itself beside it
        if len(starts) < config.batch_size:
            raise UserError(
                f"the training chapters have {len(starts)} verses of use, and a batch needs {config.batch_size}: "
                "give a longer text, or a smaller --batch-size or --chapter-negatives"
            )
        self._starts = self._on_device(starts)
        self.n_starts = len(starts)
        self._kjv, self._ylt = (
            self._on_device(self.verses.rows(name, train, config.block_size)) for name in ("kjv", "ylt")
        )
        self._tests: dict[Part, tuple[VerseTest, dict[str, float]]] = {}

    def train_steps(self, n: int, on_step: Callable[[int], None] | None = None) -> float:
        loss_sum, end = 0.0, self.step + n
        while self.step < end:
            steps = min(end, self.config.stage_end(self.step)) - self.step
            if self.graphed is not None and self.config.stage(self.step) != self.config.stage(self.step - 1):
                self.graphed.attach()  # the graphs that there are make steps of another stage
            loss_sum += steps * super().train_steps(steps, on_step)
        return loss_sum / n

    def phases(self) -> list[tuple[int, int]]:
        c, first, found = self.config, 0, []
        for steps in (c.language_steps, c.unsupervised_steps, c.supervised_steps):
            if steps:
                found.append((first, steps))
            first += steps
        return found

    def loss_of(self, starts: Tensor) -> Tensor:
        """Returns the loss of the stage of the step, on the verses that `starts` (B,) choose."""
        return self.stage_loss(self.config.stage(self.step), self.verses_of(starts))

    def verses_of(self, starts: Tensor) -> Tensor:
        """Returns the verses (B,) of a batch, indices into the training verses.

        Of `starts` (B,), every `chapter_negatives`-th counts: the verse there and those after it in its chapter.
        """
        n = self.config.chapter_negatives
        first = self._starts[starts.view(-1, n)[:, :1]]  # (B / n, 1)
        return self._after(first, torch.arange(n, device=self.device)).flatten()

    def stage_loss(self, stage: str, verses: Tensor) -> Tensor:
        """Returns a stage's loss on training verses (B,), with the rates that are set."""
        kjv = self._kjv[verses].long()
        if stage == "language":
            return self._language_loss(kjv)
        temperature = self.config.temperature
        if stage == "unsupervised":
            one, other = self.embed(torch.cat([kjv, kjv])).chunk(2)  # one call: each row has masks of its own
            return info_nce(one, other, temperature)
        rows = [kjv, self._ylt[verses].long()]
        if self.config.hard_negatives:
            rows.append(self._ylt[self._after(verses, 1)].long())
        embedded = self.embed(torch.cat(rows)).chunk(len(rows))
        return info_nce(embedded[0], embedded[1], temperature, embedded[2] if self.config.hard_negatives else None)

    def embed(self, rows: Tensor) -> Tensor:
        """Returns the embeddings (B, C), float32, of rows of tokens (B, T): the mean over the tokens of the verse."""
        with self._autocast():
            hidden = self._hidden(rows)
        is_text = (rows != self.verses.end)[..., None]
        total: Tensor = (hidden.float() * is_text).sum(1)
        return total / is_text.sum(1)

    def measure(self, part: Part = "development") -> tuple[float, dict[str, float]]:
        """Returns 1 - Spearman over a part's graded pairs, dropout off, and all scores, TF-IDF's beside the model's.

        A family that works in evaluation too does so with the rates that are set.
        """
        if part not in self._tests:
            test = VerseTest.of(self.verses, part, self.config.pairs_per_grade, self.config.block_size)
            lexical = test.lexical_scores(self.verses)
            self._tests[part] = test, {LEXICAL + name: lexical[name] for name in _LEXICAL_SCORES}
        test, lexical = self._tests[part]
        scores = test.scores(self._embed_all(test.rows))
        return 1 - scores["spearman"], scores | lexical

    def validate(self) -> float:
        return self.measure()[0]

    def test_loss(self, corpus: Corpus) -> float:
        return self.measure("test")[0]

    def compile(self) -> None:
        """Compiles the graphs of all stages, and leaves every rate, generator and gradient as it was."""
        kept = [owner.value for owner in self._owners]
        stages = {self.config.stage(step) for step in range(self.config.steps)}
        with torch.random.fork_rng(devices=self._generators()):
            for rate in (0.1, 0.0):
                set_rates(self._owners, [rate] * len(self._owners))
                for stage in sorted(stages):
                    self.stage_loss(stage, self.verses_of(self._next_starts())).backward()
        self.optimizer.zero_grad(set_to_none=True)
        set_rates(self._owners, kept)
        self.measure()

    def _language_loss(self, rows: Tensor) -> Tensor:
        """Returns the cross-entropy, in nats, of the characters after the first and of the end of each verse."""
        is_known = rows[:, :-1] != self.verses.end
        targets = torch.where(is_known, rows[:, 1:], IGNORED)
        with self._autocast():
            logits = self.model.lm_head(self._hidden(rows[:, :-1].contiguous()))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)

    @torch.no_grad()
    def _embed_all(self, rows: np.ndarray) -> Tensor:
        """Returns the embeddings (n, C) of rows (n, T), in batches of one size."""
        size = self.config.batch_size
        filled = np.resize(rows, (-(-len(rows) // size) * size, rows.shape[1]))  # repeats rows at the end
        self.model.eval()
        batches = torch.from_numpy(filled).to(self.device).split(size)
        embedded = torch.cat([self.embed(batch.long()) for batch in batches])[: len(rows)]
        self.model.train()
        return embedded

    def _after(self, verses: Tensor, steps: Tensor | int) -> Tensor:
        """Returns the training verses so many verses after others in their chapters; after the last comes the first."""
        chapter = self._chapter[verses]
        first = self._first[chapter]
        return first + (verses - first + steps) % self._sizes[chapter]

    def _on_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
