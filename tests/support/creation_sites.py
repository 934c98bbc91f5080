"""Creation sites as reports show them, found in the source, which may move."""

import inspect
from collections.abc import Callable
from types import ModuleType

from muxleak.introspect.sites import short_path


def site(function: Callable[..., object], text: str) -> str:
    """Return "file:line in function" of the one line of `function` that contains `text`."""
    lines, first = inspect.getsourcelines(function)
    (offset,) = [number for number, line in enumerate(lines) if text in line]
    path = short_path(str(inspect.getsourcefile(function)))
    return f"{path}:{first + offset} in {function.__qualname__}"


def shown(module: ModuleType) -> str:
    """Return the path of a module: in a clone it begins with the source root."""
    return short_path(str(module.__file__))
