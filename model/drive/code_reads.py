"""What a module's code reads when it runs, found in its bytecode: source text may not exist, as in a notebook."""

import dis
import sys
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType, ModuleType

from torch import nn

LIBRARY_BASES = ("transformers.modeling_utils", "lightning.", "pytorch_lightning.")
"""Files whose base classes load, check and train models, and do not compute them."""


@lru_cache(maxsize=10_000)
def reads(kind: type, owner: str, *, own: bool = False) -> frozenset[str]:
    """Returns the names that the code of a module's class reads from `owner`, its constructors excepted.

    `owner` is an attribute or a variable, such as `config`: `self.config.dropout`, `config.dropout`,
    `config["dropout"]`, `getattr(config, "dropout")`, and the same through another variable that `config` was assigned
    to. Code is that of the class and its bases, and, unless `own`, of the plain functions in their files.
    """
    classes = _classes(kind)
    functions = [f for cls in classes for f in _methods(cls)]
    if not own:
        files = {cls.__module__: sys.modules.get(cls.__module__) for cls in classes}
        functions += [f for file in files.values() if file is not None for f in _plain_functions(file)]
    return frozenset(name for f in functions for name in _names_read(f.__code__, owner))


@lru_cache(maxsize=10_000)
def mentions(kind: type) -> frozenset[str]:
    """Returns the globals and attributes that the code of a module's class mentions, by name."""
    codes = [f.__code__ for cls in _classes(kind) for f in _methods(cls)]
    return frozenset(name for code in codes for part in _with_nested(code) for name in part.co_names)


def forget() -> None:
    """Forgets what was read, since a notebook may define a function anew."""
    reads.cache_clear()
    mentions.cache_clear()


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


def _plain_functions(file: ModuleType) -> Iterator[FunctionType]:
    for value in list(vars(file).values()):
        if isinstance(value, FunctionType) and value.__module__ == file.__name__:
            yield _undecorated(value)


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
