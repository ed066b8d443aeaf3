"""What a module's code reads when it runs, found in its bytecode: source text may not exist, as in a notebook."""

import dis
from collections.abc import Iterator
from types import CodeType, FunctionType

from torch import nn

LIBRARY_BASES = ("transformers.modeling_utils", "lightning.", "pytorch_lightning.")
"""Files whose base classes load, check and train models, and do not compute them."""


_known: dict[tuple[type, str, bool], frozenset[str]] = {}


def reads(kind: type, owner: str, *, own: bool = False) -> frozenset[str]:
    """Returns the names that the code of a module's class reads from `owner`, its constructors excepted.

    `owner` is an attribute or a variable, such as `config`: `self.config.dropout`, `config.dropout`,
    `config["dropout"]`, `getattr(config, "dropout")`, and the same through another variable that `config` was assigned
    to. Code is that of the class and its bases, and, unless `own`, of functions in the same files that it calls.
    """
    if (kind, owner, own) not in _known:
        functions = [f for cls in _classes(kind) for f in _methods(cls)]
        if not own:
            functions += _called(functions)
        _known[kind, owner, own] = frozenset(name for f in functions for name in _names_read(f.__code__, owner))
    return _known[kind, owner, own]


def mentions(kind: type) -> set[str]:
    """Returns the globals and attributes that the code of a module's class mentions, by name."""
    codes = [f.__code__ for cls in _classes(kind) for f in _methods(cls)]
    return {name for code in codes for part in _with_nested(code) for name in part.co_names}


def forget() -> None:
    """Forgets what was read, since a notebook may define a function anew."""
    _known.clear()


def loaded_names(function: FunctionType) -> list[str]:
    """Returns the globals and attributes that a function loads, in the order of its code."""
    instructions = dis.get_instructions(_undecorated(function).__code__)
    return [i.argval for i in instructions if i.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_GLOBAL")]


def _classes(kind: type) -> list[type]:
    bases = (nn.Module.__module__, *LIBRARY_BASES)
    return [cls for cls in kind.__mro__ if cls is not object and not cls.__module__.startswith(bases)]


def _methods(cls: type) -> Iterator[FunctionType]:
    """Yields the functions that a class defines, without its constructor and their decorators."""
    for name, value in vars(cls).items():
        for f in (value, getattr(value, "__func__", None), getattr(value, "fget", None)):
            if isinstance(f, FunctionType) and name != "__init__":
                yield _undecorated(f)


def _called(functions: list[FunctionType]) -> list[FunctionType]:
    """Returns the plain functions of the same files that functions mention, and those that these mention."""
    found: dict[FunctionType, None] = {}
    waiting = list(functions)
    while waiting:
        f = waiting.pop()
        for name in {name for part in _with_nested(f.__code__) for name in part.co_names}:
            value = f.__globals__.get(name)
            if isinstance(value, FunctionType) and value.__module__ == f.__module__:
                value = _undecorated(value)
                if value not in found:
                    found[value] = None
                    waiting.append(value)
    return list(found)


def _undecorated(function: FunctionType) -> FunctionType:
    while isinstance(inner := getattr(function, "__wrapped__", None), FunctionType):
        function = inner
    return function


def _with_nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_nested(constant)


def _names_read(code: CodeType, owner: str) -> Iterator[str]:
    for part in _with_nested(code):
        owners, previous = {owner}, None
        for instruction in dis.get_instructions(part):
            value = instruction.argval
            if isinstance(value, tuple) and instruction.opname.startswith("LOAD_FAST") and value:
                value = value[-1]  # Python 3.13 loads two variables at once
            if previous in owners:
                if instruction.opname.startswith("STORE_FAST"):
                    owners.add(value)
                elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_CONST") and isinstance(value, str):
                    yield value
            previous = value if instruction.opname.startswith("LOAD_") and isinstance(value, str) else None
