"""Checks of the user's file before anything runs: it is parsed, not imported."""

import ast

from study.base.errors import UserError, first_line

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def check_function(source: bytes, name: str, task: str) -> None:
    """Checks that a file's text has a function that can be called with one argument, as far as the text tells.

    A name that is assigned or imported, or has a decorator, is checked when the file is imported.

    Args:
        task: as the user gave it, for the error line.

    Raises:
        UserError: if it has not, or the text has a syntax error.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last three: a NUL; too deeply nested
        if isinstance(error, SyntaxError) and error.lineno is not None:
            raise UserError(f"--task {task}: line {error.lineno} of the file: {error.msg}") from None
        raise UserError(f"--task {task}: the file is no Python text ({first_line(error)})") from None
    functions = [node for node in tree.body if isinstance(node, _Function)]
    function = next((node for node in reversed(functions) if node.name == name), None)
    if function is None:
        if not {name, "*"} & _names(tree):
            found = ", ".join(node.name for node in functions) or "none"
            raise UserError(f"--task {task}: the file has no function {name}; its functions: {found}")
        return
    if isinstance(function, ast.AsyncFunctionDef):
        raise UserError(f"--task {task}: {name} is an async function: make it a plain one, def {name}(run)")
    if _generates(function):
        raise UserError(f"--task {task}: {name} has a yield: call run.report(...) there instead")
    if not function.decorator_list and not _takes_one(function.args):
        raise UserError(f"--task {task}: {name} must take one argument: def {name}(run)")


def _names(tree: ast.Module) -> set[str]:
    """Returns all names that may stand for a function after an import; "*" if all names of a module are imported."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, _Function | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def _generates(function: ast.FunctionDef) -> bool:
    """Whether a function has a yield of its own."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, _Function | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)
    return False


def _takes_one(arguments: ast.arguments) -> bool:
    places = len(arguments.posonlyargs) + len(arguments.args)
    needed = places - len(arguments.defaults)
    keywords = any(default is None for default in arguments.kw_defaults)
    return needed <= 1 and (places >= 1 or arguments.vararg is not None) and not keywords
