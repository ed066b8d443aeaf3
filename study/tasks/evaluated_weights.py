"""A model's weights as they were when it was evaluated."""

import copy
from typing import Any

from torch import nn


class EvaluatedWeights(nn.Module):
    """Stands for a model where its weights are saved: the task may have trained on since its evaluation.

    Tensors that the model shares are shared here too.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._weights = copy.deepcopy(model.state_dict())

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the weights."""
        return self._weights
