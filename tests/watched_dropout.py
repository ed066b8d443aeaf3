"""Sees every rate that a model really drops with, whatever wrote it: the proof does not ask the driver."""

from collections.abc import Callable
from typing import Any

from torch.overrides import TorchFunctionMode

POSITIONS = {"scaled_dot_product_attention": 4, "multi_head_attention_forward": 10}
"""Where the functions that drop beside other work take their rate; so do `lstm` and `gru`."""


class Watch(TorchFunctionMode):
    """Records (function, rate) of every call that may drop; the rate is 0 where the call is told not to train."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, float]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if "dropout" in name:
            trains = named.get("training", args[2] if len(args) > 2 else True)
            self._see(name, named.get("p", args[1] if len(args) > 1 else 0.5) if trains else 0.0)
        elif name in ("lstm", "gru"):
            self._see(name, args[5] if args[6] else 0.0)
        elif name in POSITIONS:
            place = POSITIONS[name]
            rate = named.get("dropout_p", args[place] if len(args) > place else 0.0)
            self._see(name, rate if named.get("training", True) else 0.0)
        return func(*args, **named)

    def _see(self, name: str, rate: float) -> None:
        self.seen.append((name, rate))

    @property
    def rates(self) -> list[float]:
        """The rates of the calls, in their order."""
        return [rate for _, rate in self.seen]
