"""Calls a function when a module is imported, for hooks on a library that may come later."""

# uvloop's loops have no base class in common with asyncio's, so their class itself is hooked. A
# program that imports uvloop in a function, or a runner that imports it for its first loop, runs
# that loop in the next line: the hooks must be in place when the import ends. Importing uvloop for
# them would cost each program 30 ms, and change it.

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class LateImport:
    """Calls a function once a module is there: now, or at the end of its import.

    Args:
        name: of a top-level module.
        imported: called with the module.
    """

    def __init__(self, name: str, imported: Callable[[ModuleType], None]) -> None:
        self._name, self._imported = name, imported

    def start(self) -> None:
        """Call the function, if the module is imported; else wait for its import."""
        module = sys.modules.get(self._name)
        if module is not None:
            self._imported(module)
        else:
            sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Stop waiting."""
        with suppress(ValueError):
            sys.meta_path.remove(self)

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        """Answer the import system: nothing, but for the module that is waited for."""
        if name != self._name:
            return None
        self.stop()
        spec = find_spec(name)
        loader: Any = spec.loader if spec is not None else None
        execute = getattr(loader, "exec_module", None)
        if execute is None:
            return spec

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            execute(module)
            self._imported(module)

        # A loader that takes no attribute loads the module unnoticed.
        with suppress(AttributeError):
            loader.exec_module = exec_module
        return spec
