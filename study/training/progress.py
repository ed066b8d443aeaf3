"""The record of one evaluation."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What one evaluation found. Steps count from 0: this one is taken before the update `step`.

    Attributes:
        progress: the share of the steps done.
        dropout_rate: the schedule's for the update `step`; `learning_rate` is that update's too.
        train_loss: mean over the updates since the last evaluation, dropout on; at step 0 the first batch's. None, as
            `learning_rate` and `tokens_per_second` may be, where a user's own task does not tell it.
        val_loss: nats per token over fixed windows of the validation split, dropout off.
        best_val_loss: the lowest so far, and `best_step` when it was.
        tokens_per_second: of the training since the last evaluation; 0 at step 0.
        train_seconds: of training so far, without evaluation and compilation, summed over restarts.
        metrics: more numbers of this evaluation, by name; a task may have some.
        time_ms: when, in milliseconds since the epoch; the same again when it is repeated after a restart.
    """

    step: int
    progress: float
    dropout_rate: float
    train_loss: float | None
    val_loss: float
    best_val_loss: float
    best_step: int
    learning_rate: float | None
    tokens_per_second: float | None
    train_seconds: float
    time_ms: int
    metrics: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a plain dict."""
        return asdict(self)
