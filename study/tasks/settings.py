"""The settings that the user gives a task of their own with `--set key=value`."""

from collections.abc import Iterator, Mapping
from typing import Any

from study.base.errors import UserError
from study.training.task_config import Setting


class MissingSettingError(UserError, AttributeError, KeyError):
    """A setting that the task reads and the user did not give. Also what `getattr` and `get` with a default expect."""

    __str__ = Exception.__str__  # KeyError's own puts it into quotes


class Settings(Mapping[str, Any]):
    """The settings, read as attributes, `run.config.width`, or as a mapping, `run.config.get("width", 128)`."""

    def __init__(self, settings: Mapping[str, Setting]) -> None:
        self._settings = dict(settings)

    def __getitem__(self, name: str) -> Any:
        try:
            return self._settings[name]
        except KeyError:
            given = ", ".join(self._settings) or "none"
            raise MissingSettingError(
                f"the task needs the setting {name} (given: {given}): give --set {name}=VALUE"
            ) from None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # as copy and pickle ask, before there are settings
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def __repr__(self) -> str:
        return f"Settings({self._settings})"
