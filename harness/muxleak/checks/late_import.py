"""Calls functions when modules are imported, for hooks on libraries that may come later."""

# uvloop's loops have no base class in common with asyncio's, so their class itself is hooked. A
# program that imports uvloop in a function, or a runner that imports it for its first loop, runs
# that loop in the next line: the hooks must be in place when the import ends. Importing uvloop for
# them would cost each program 30 ms, and change it. The same holds for those of `loop_ends`.

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class LateImport:
    """Calls a function once a module is there: now, or at the end of its import.

    Args:
        wanted: the functions, by the full name of a module; each is called with the module.
    """

    def __init__(self, wanted: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self._wanted = wanted
        self._missing: dict[str, Callable[[ModuleType], None]] = {}

    def start(self) -> None:
        """Call the functions of modules that are imported; wait for the import of the others."""
        for name, imported in self._wanted.items():
            module = sys.modules.get(name)
            if module is not None:
                imported(module)
            else:
                self._missing[name] = imported
        if self._missing:
            sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Stop waiting."""
        self._missing.clear()
        # Another tool may have taken it out.
        with suppress(ValueError):
            sys.meta_path.remove(self)

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        """Answer the import system: nothing, but for a module that is waited for."""
        imported = self._missing.pop(name, None)
        if imported is None:
            return None
        spec = find_spec(name)
        loader: Any = spec.loader if spec is not None else None
        execute = getattr(loader, "exec_module", None)
        if execute is None:
            return spec

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            execute(module)
            if self in sys.meta_path:
                imported(module)

        # A loader that takes no attribute loads the module unnoticed.
        with suppress(AttributeError):
            loader.exec_module = exec_module
        return spec
