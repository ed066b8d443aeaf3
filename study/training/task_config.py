"""The configuration of a run of the user's own task, and the one reader of all training configs."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from model.checks import check_integer, short
from study.base.errors import UserError
from study.training.config import TrainingConfig
from study.training.sentences_config import SENTENCES, SentencesConfig
from study.training.supernet_config import HEAD_SIZE, SIZES, SubnetConfig, SupernetConfig

Setting = str | int | float | bool
TASK = "task"
"""The key that the config of a language model does not have."""
_LEAST = {"seed": 0}


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """All that decides a run of the user's own task but its regularizer.

    Attributes:
        task: the file and its function, as in `my_task.py:train`; without folders.
        task_sha256: of the file and the modules beside it.
        settings: what `--set key=value` gave; the task reads it as `run.config`.

    Raises:
        UserError: names the field and the value that it refuses.
    """

    task: str
    task_sha256: str
    steps: int
    eval_interval: int
    seed: int = 1337
    threads: int = 1
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("steps", "eval_interval", "seed", "threads"):
            try:
                check_integer(name, getattr(self, name), _LEAST.get(name, 1))
            except ValueError as error:
                raise UserError(str(error)) from None
        for name in (TASK, "task_sha256"):
            if not isinstance(getattr(self, name), str):
                raise UserError(f"{name} must be a text, got {short(getattr(self, name))}")
        if not isinstance(self.settings, Mapping) or not all(
            isinstance(key, str) and isinstance(value, Setting) for key, value in self.settings.items()
        ):
            raise UserError(f"settings must be a mapping of names to numbers or texts, got {short(self.settings)}")

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> "TaskConfig":
        """Makes a config from a plain dict. Raises UserError for an unknown or missing key too."""
        known = {f.name: f for f in fields(cls)}
        if unknown := [key for key in d if key not in known]:
            raise UserError(f"a task's config has no field {short(unknown[0])}: it has {', '.join(known)}")
        needed = [name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
        if missing := [name for name in needed if name not in d]:
            raise UserError(f"a task's config needs {', '.join(missing)} too")
        return cls(**d)


def default_interval(steps: int) -> int:
    """Returns the steps between two evaluations of a task, if nobody gives another number: 20 evaluations."""
    return max(1, steps // 20)


def parse_settings(texts: Sequence[str]) -> dict[str, Setting]:
    """Returns the settings of `--set KEY=VALUE`: a whole number, a number, true, false, or a text.

    Raises:
        UserError: names the text that is no setting.
    """
    found: dict[str, Setting] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key.isidentifier() and equals):
            raise UserError(f"--set {text}: give KEY=VALUE, with a KEY of letters, digits and '_'")
        if key in found:
            raise UserError(f"--set {key} is given twice: leave one of them out")
        found[key] = _value(value)
    return found


def _value(text: str) -> Setting:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:  # the next kind may take it
            continue
    return text


RunConfig = TrainingConfig | TaskConfig


def read_config(d: Any) -> RunConfig:
    """Makes the config of a run from a plain dict, whose keys tell its kind.

    A user's own task has the key `task`, a supernet `sizes`, and a size of one that is exported `head_size`.

    Raises:
        UserError: names what was given.
    """
    if isinstance(d, Mapping) and d.get(TASK) == SENTENCES:
        return SentencesConfig.from_dict(d)
    if isinstance(d, Mapping) and TASK in d:
        return TaskConfig.from_dict(d)
    if isinstance(d, Mapping) and SIZES in d:
        return SupernetConfig.from_dict(d)
    if isinstance(d, Mapping) and HEAD_SIZE in d:
        return SubnetConfig.from_dict(d)
    return TrainingConfig.from_dict(d)
