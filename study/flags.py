"""A command line made from a config dataclass: a flag a field, its help the field's description."""

import argparse
import sys
import types
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

from study.errors import UserError

T = TypeVar("T")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """Returns an empty parser of `python -m NAME` whose errors are a UserError of one line."""
    return _Parser(
        prog=f"python -m {name}",
        description=description,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=110),
    )


def add_flags(target: argparse._ActionsContainer, config: type[Any], omit: Sequence[str] = ()) -> None:
    """Adds a flag for each field of a config dataclass; one that is not given leaves no trace in the result."""
    hints = get_type_hints(config)
    for f in fields(config):
        if f.name not in omit:
            _add_flag(target, f, hints[f.name])


def parse(config: type[T], name: str, description: str, argv: Sequence[str] | None) -> tuple[T, dict[str, Any]]:
    """Returns the config that a command line asks for, and the fields that it gives itself."""
    p = parser(name, description)
    add_flags(p, config)
    given = vars(p.parse_args(sys.argv[1:] if argv is None else argv))
    if missing := [f.name for f in fields(config) if f.default is MISSING and f.name not in given]:  # type: ignore[arg-type]
        raise UserError(f"{', '.join(map(flag, missing))} must be given (see python -m {name} --help)")
    return config(**given), given


def flag(name: str) -> str:
    """Returns the flag of a field."""
    return "--" + name.replace("_", "-")


def _add_flag(target: argparse._ActionsContainer, f: Field[Any], hint: Any) -> None:
    kinds = [kind for kind in get_args(hint) if kind is not types.NoneType] or [hint]
    default = (
        "" if f.default in (MISSING, None, False) or "default" in f.metadata["help"] else f" (default {f.default})"
    )
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": f.metadata["help"] + default}
    if kinds[0] is bool:
        action = argparse.BooleanOptionalAction if f.metadata.get("negatable") else "store_true"
        target.add_argument(flag(f.name), action=action, **options)
    else:
        metavar = f.metadata.get("metavar") or (
            "N" if kinds[0] is int else "X" if kinds[0] is float else f.name.upper()
        )
        choices = f.metadata.get("choices")
        target.add_argument(
            flag(f.name), type=kinds[0], choices=choices, metavar=None if choices else metavar, **options
        )
