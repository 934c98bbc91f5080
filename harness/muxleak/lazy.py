"""Names of a package that are imported when they are first used (PEP 562)."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: the ``__name__`` of the package.
        homes: the names that the package offers, separated by spaces, by the module that defines
            them, which is relative to the package.

    Returns:
        The two functions. A name that was used once is an ordinary attribute from then on.
    """
    home = {name: module for module, names in homes.items() for name in names.split()}
    own = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = own[name] = getattr(import_module(f"{package}.{home[name]}"), name)
        return value

    return get, lambda: sorted({*own, *home})
