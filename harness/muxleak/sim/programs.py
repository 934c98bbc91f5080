"""Programs by name: "module:callable", as a command line and a replay file name them."""

from __future__ import annotations

import inspect
import sys
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muxleak.sim import old_names

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_OPTIONAL = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}

_SHOWN = 60  # characters of an object that is none


class ProgramError(ValueError):
    """A name that leads to no program; the message says what was expected and found."""


def find_program(name: str) -> Callable[[], Coroutine[Any, Any, object]]:
    """The async function without arguments that a name means.

    Args:
        name: "module:callable"; the module is imported.

    Raises:
        ProgramError: there is none, or it is something else.
    """
    program = locate(name)
    if not callable(program):
        got = repr(program)
        got = got if len(got) <= _SHOWN else f"{got[: _SHOWN - 1]}…"
        raise ProgramError(
            f"{name!r}: expected an async function, got {got}, which is not callable"
        )
    if not _is_async(program):
        raise ProgramError(
            f"{name!r}: expected an async function, got {_kind(program)}; define it with "
            "`async def`, and without `yield`"
        )
    needed = [
        str(each)
        for each in inspect.signature(program).parameters.values()
        if each.default is each.empty and each.kind not in _OPTIONAL
    ]
    if needed:
        raise ProgramError(
            f"{name!r}: expected an async function without arguments, got one that takes "
            f"{', '.join(needed)}; wrap it in one that passes them"
        )
    return program  # type: ignore[no-any-return]


def name_from_here(program: Any) -> str:
    """The name under which a command started in the current folder finds a program.

    Empty if there is none, as for a function in a function. Nothing is imported.
    """
    name, path = getattr(program, "__module__", ""), getattr(program, "__qualname__", "")
    module = found = sys.modules.get(name)
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is not program or module is None or name == "__main__" or not _is_async(program):
        return ""
    file, here = Path(getattr(module, "__file__", None) or ""), Path.cwd()
    if file.stem == name and file.is_relative_to(here):
        # A test runner may have put the folder of a top-level module on the path.
        name = ".".join(file.relative_to(here).with_suffix("").parts)
    return f"{name}:{path}" if all(map(str.isidentifier, name.split("."))) else ""


def locate(name: str) -> Any:
    """Whatever a name means.

    Raises:
        ProgramError: nothing, or its module cannot be imported.
    """
    module, colon, path = name.partition(":")
    if not colon or not all(each.isidentifier() for each in (*module.split("."), *path.split("."))):
        raise ProgramError(f"expected module:callable, such as myserver.sim:main, got {name!r}")
    if module.endswith(".py"):
        raise ProgramError(
            f"expected module:callable, got the file {module!r}; "
            f"did you mean '{module.removesuffix('.py')}:{path}'?"
        )
    found: Any = _imported(module)
    at = f"module {module!r}"
    for part in path.split("."):
        if not hasattr(found, part):
            close = get_close_matches(part, vars(found) if hasattr(found, "__dict__") else (), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ProgramError(f"no {part!r} in {at}{hint}")
        found, at = getattr(found, part), repr(part)
    return found


def _kind(thing: Any) -> str:
    if inspect.isasyncgenfunction(thing):
        return "an async generator"
    if inspect.isfunction(thing):
        return "a plain function"
    return "a class" if inspect.isclass(thing) else f"an object of type {type(thing).__name__}"


def _is_async(program: Any) -> bool:
    # Of an object whose class has it, too.
    call = getattr(type(program), "__call__", None)  # noqa: B004 - asked for what it is, not whether
    return inspect.iscoroutinefunction(program) or inspect.iscoroutinefunction(call)


def _imported(module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name and f"{module}.".startswith(f"{exc.name}."):
            if exc.name in old_names.PACKAGES:
                with suppress(ModuleNotFoundError):
                    return import_module(old_names.new_name(module))
            raise ProgramError(
                f"no module {module!r}: there is no {exc.name!r} on the import path"
            ) from exc
        advice = old_names.advice(exc)
        raise ProgramError(_failed(module, exc) + (f"; {advice}" if advice else "")) from exc
    # Whatever a module does when it is imported, `sys.exit` included.
    except (Exception, SystemExit) as exc:
        raise ProgramError(_failed(module, exc)) from exc


def _failed(module: str, error: BaseException) -> str:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    at = ""
    if last is not None and not last.tb_frame.f_code.co_filename.startswith("<frozen"):
        at = f" (at {last.tb_frame.f_code.co_filename}:{last.tb_lineno})"
    return f"importing {module!r} failed: {type(error).__name__}: {error}{at}"
