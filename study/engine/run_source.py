"""Where the runs of a session come from, and who hears of them."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from study.base.names import Key, Outcome
from study.engine.run_spec import RunSpec


class Signal(Enum):
    """Why a source gives no run."""

    WAIT = auto()
    DONE = auto()


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended; `value` is the best_val_loss of one that was completed, and `seconds` its train_seconds."""

    outcome: Outcome
    reason: str | None = None
    traceback: str | None = None
    diverged: bool = False
    value: float | None = None
    seconds: float | None = None


class RunSource(ABC):
    """Gives runs, and keeps what came of them."""

    @abstractmethod
    def next(self) -> RunSpec | Signal:
        """Returns the next run to train; WAIT if it cannot be given yet, DONE if there is none."""

    @abstractmethod
    def give_back(self, spec: RunSpec) -> None:
        """Takes back a run that has no end, to give it again first."""

    def seen(self, key: Key) -> Mapping[str, Any]:
        """Returns the last evaluation of a run that an earlier session heard of, as far as it is known."""
        return {}

    def progressed(self, key: Key, result: Mapping[str, Any]) -> None:  # noqa: B027
        """Takes a new evaluation of a run. A source whose runs' folders say enough keeps nothing."""

    def ended(self, key: Key, ending: Ending) -> None:  # noqa: B027
        """Takes the end of a run, likewise."""


class Listener(Protocol):
    """Hears what happens to runs."""

    def run_started(self, spec: RunSpec) -> None:
        """Hears of a run that a worker begins, or goes on with."""

    def run_progressed(self, spec: RunSpec, result: Mapping[str, Any]) -> None:
        """Hears of an evaluation, after a restart perhaps again."""

    def run_ended(self, spec: RunSpec, ending: Ending) -> None:
        """Hears of an end."""


class ListedRuns(RunSource):
    """Gives the runs of a list, in its order. Their folders say what came of them."""

    def __init__(self, specs: Iterable[RunSpec]) -> None:
        self._left = deque(specs)

    def next(self) -> RunSpec | Signal:
        """See RunSource."""
        return self._left.popleft() if self._left else Signal.DONE

    def give_back(self, spec: RunSpec) -> None:
        """See RunSource."""
        self._left.appendleft(spec)
