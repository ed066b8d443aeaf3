"""The objects that the user's task keeps: their states in a checkpoint, and back."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from study.base.errors import UserError

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_TENSORS = (torch.Tensor, nn.Parameter)
MODEL = "model"
"""The name of the module whose weights are kept where val_loss is lowest."""


class KeptObjects:
    """Objects by name. A checkpoint's states, if there are some, are waiting for the objects of the same names."""

    def __init__(self, states: Mapping[str, Any] | None = None) -> None:
        self.objects: dict[str, Any] = {}
        self._waiting = states

    def add(self, name: str, kept: Any) -> None:
        """Adds an object, and restores it at once if a checkpoint's state waits for it.

        Raises:
            UserError: if the object has no state that is known, or the checkpoint has none of that name.
        """
        if name in self.objects:
            raise UserError(f"run.keep({name}=...) was called before: give each object a name of its own")
        if name == MODEL and not isinstance(kept, nn.Module):
            raise UserError(
                f"run.keep(model=...) must be a torch.nn.Module, got {_kind(kept)}: give it another name than model"
            )
        _state(name, kept)  # says now if it has none
        if self._waiting is not None and name not in self._waiting:
            raise UserError(
                f"run.keep({name}=...): the checkpoint has no such object, but {', '.join(self._waiting)}: the task "
                "must keep the same objects each time that it is called"
            )
        self.objects[name] = kept
        if self._waiting is not None:
            _load(name, kept, self._waiting[name])

    def restore(self) -> None:
        """Restores all objects again, just before the training goes on.

        What the task made after it kept an object may have changed that: a learning rate scheduler writes into its
        optimizer when it is made.

        Raises:
            UserError: if a checkpoint's state waits for an object that was not added.
        """
        if self._waiting is None:
            return
        if missing := [name for name in self._waiting if name not in self.objects]:
            raise UserError(
                f"the checkpoint has {', '.join(missing)}, and the task did not call run.keep with it before "
                "run.steps(): it must keep the same objects each time that it is called"
            )
        for name, kept in self.objects.items():
            _load(name, kept, self._waiting[name])
        self._waiting = None

    def learning_rate(self) -> float | None:
        """Returns the learning rate of the first optimizer; None if there is none."""
        optimizers = (kept for kept in self.objects.values() if isinstance(kept, torch.optim.Optimizer))
        return next((float(optimizer.param_groups[0]["lr"]) for optimizer in optimizers), None)

    def states(self) -> dict[str, Any]:
        """Returns the state of each object, as tensors and plain values.

        Raises:
            UserError: names the object whose state has something else.
        """
        return {name: _state(name, kept) for name, kept in self.objects.items()}


def _state(name: str, kept: Any) -> Any:
    if isinstance(kept, torch.Generator):
        return kept.get_state()
    if isinstance(kept, np.random.Generator):
        return _lists(kept.bit_generator.state)
    if isinstance(kept, random.Random):
        return kept.getstate()
    if not callable(getattr(kept, "state_dict", None)) or not callable(getattr(kept, "load_state_dict", None)):
        raise UserError(
            f"run.keep({name}=...) cannot keep {_kind(kept)}: give what has state_dict() and load_state_dict(), or a "
            "torch.Generator, a numpy.random.Generator or a random.Random"
        )
    state = kept.state_dict()
    plain = _plain(name, state)
    return state if isinstance(kept, nn.Module) else plain  # a module's has metadata beside its entries


def _load(name: str, kept: Any, state: Any) -> None:
    if isinstance(kept, torch.Generator):
        kept.set_state(state)
    elif isinstance(kept, np.random.Generator):
        kept.bit_generator.state = state
    elif isinstance(kept, random.Random):
        kept.setstate(state)
    else:
        kept.load_state_dict(state)


def _plain(name: str, value: Any) -> Any:
    """Returns a state without NumPy's scalars; refuses what a checkpoint cannot hold."""
    if type(value) in _PLAIN or type(value) in _TENSORS:
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {_plain(name, key): _plain(name, entry) for key, entry in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(_plain(name, entry) for entry in value)
    raise UserError(
        f"run.keep({name}=...): its state_dict() has {_kind(value)}, and a checkpoint holds only tensors, numbers, "
        "texts, and lists and dicts of them"
    )


def _lists(state: Any) -> Any:
    """Returns a NumPy generator's state with lists for its arrays; a generator takes them too."""
    if isinstance(state, Mapping):
        return {key: _lists(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray | np.generic) else state


def _kind(value: Any) -> str:
    kind = type(value)
    return f"a {kind.__name__}" if kind.__module__ == "builtins" else f"a {kind.__module__}.{kind.__name__}"
