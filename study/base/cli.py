"""A command line made from a config dataclass: one flag per field, with the field's help and bounds."""

import argparse
import shutil
import sys
import types
from collections.abc import Sequence
from dataclasses import MISSING, field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from study.base.errors import UserError

T = TypeVar("T")
SCRIPTS = "dropout-"
"""Begins the names of the commands that are installed, in pyproject.toml."""
METAVARS = {int: "N", float: "X"}


class _Formatter(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)  # commands keep their lines


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def parser(name: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """Returns an empty parser of `python -m NAME` whose errors are a UserError of one line; `epilog` ends its help."""
    return _Parser(
        prog=f"python -m {name}",
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=lambda prog: _Formatter(prog, max_help_position=30, width=110),
    )


def add_flags(
    target: argparse._ActionsContainer, config: type[Any], *, show_defaults: bool, besides: type[Any] | None = None
) -> None:
    """Adds a flag for each field of a config dataclass; the result holds only the flags that were given.

    A field that is not `described` has no flag. `besides` is a dataclass whose fields have their flags already.
    """
    hints = get_type_hints(config)
    known = {f.name for f in fields(besides)} if besides else set[str]()
    for f in (f for f in fields(config) if f.name not in known and "help" in f.metadata):
        kind = next((k for k in get_args(hints[f.name]) if k is not types.NoneType), hints[f.name])
        text = f.metadata["help"]
        if show_defaults and f.default not in (MISSING, None, False, ()) and "default" not in text:
            text += f" (default {f.default})"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction if f.metadata.get("negatable") else "store_true"
        elif get_origin(hints[f.name]) is tuple:
            options |= {"action": "append", "metavar": f.metadata["metavar"]}
        else:
            options |= {"type": kind, "choices": f.metadata.get("choices")}
            if options["choices"] is None:
                options["metavar"] = f.metadata.get("metavar") or METAVARS.get(kind, f.name.upper())
        target.add_argument(flag(f.name), **options)


def parse(
    config: type[T], name: str, description: str, argv: Sequence[str] | None, epilog: str | None = None
) -> tuple[T, dict[str, Any]]:
    """Returns the config of a command line, and the fields that the command line gives."""
    p = parser(name, description, epilog)
    add_flags(p, config, show_defaults=True)
    given = vars(p.parse_args(sys.argv[1:] if argv is None else argv))
    return config(**given), given


def described(description: str, default: Any = MISSING, **more: Any) -> Any:
    """A dataclass field with a line of help; `add_flags` makes the command line from both.

    `more` may give `choices`, `metavar`, `negatable` for a flag that can be switched off too, and `least` and `most`
    for the bounds of a number (`check_bounds`).
    """
    return field(default=default, metadata={"help": description, **more})


def check_bounds(options: Any) -> None:
    """Raises UserError if a number lies outside the bounds that its field describes; None is no number."""
    for f in fields(options):
        value, least, most = getattr(options, f.name), f.metadata.get("least"), f.metadata.get("most")
        if value is None or ((least is None or value >= least) and (most is None or value <= most)):
            continue
        allowed = f"at least {least}" if most is None else f"from {least} to {most}"
        raise UserError(f"{flag(f.name)} must be {allowed}, got {value}")


def command_line(name: str, *arguments: str) -> list[str]:
    """Returns the words of another command of ours, `train` for one, in the way in which this one was started."""
    script = Path(sys.argv[0])
    if not script.name.startswith(SCRIPTS):
        return [relative(sys.executable), "-m", f"study.{name}", *arguments]
    other = SCRIPTS + name
    return [other if shutil.which(other) else relative(str(script.absolute().with_name(other))), *arguments]


def relative(path: str) -> str:
    """Returns a path as it is shown: from the working folder, if it lies there."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def flag(name: str) -> str:
    """Returns the flag of a field."""
    return "--" + name.replace("_", "-")
