"""The learning rate over training."""

import math

from study.training.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Returns the learning rate of the update `step`: linear warm-up, then half a cosine to the minimum."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    share = min(1.0, (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps))
    low, high = config.min_learning_rate, config.learning_rate
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2
