"""Hooks that wait on a loop's class until one of its loops needs them.

Most tests make no connection and use no executor; replacing a dozen methods on each of their loops
would cost more than all the rest of the plugin.
"""

import asyncio
from typing import Any

from muxleak.ledger.hooks import RARE, Hooks

_HOOKS = "_muxleak_hooks"  # in the namespace of a loop


class Triggers:
    """Methods put on the classes of loops, to install the hooks of the loop they are called on."""

    def __init__(self) -> None:
        self._replaced: dict[type, dict[str, Any]] = {}

    def wait(self, hooks: Hooks) -> None:
        """Have `install_rest` of these hooks called when it is needed."""
        kind = type(hooks.loop)
        if kind not in self._replaced:
            own = vars(kind)
            self._replaced[kind] = {name: own.get(name) for name in RARE if hasattr(kind, name)}
            for name in self._replaced[kind]:
                setattr(kind, name, _trigger(name, getattr(kind, name)))
        vars(hooks.loop)[_HOOKS] = hooks

    def forget(self, loop: asyncio.AbstractEventLoop) -> None:
        """The hooks of a loop are not needed any more."""
        vars(loop).pop(_HOOKS, None)

    def remove(self) -> None:
        """Put back the classes' own methods."""
        for kind, methods in self._replaced.items():
            for name, own in methods.items():
                if own is None:
                    delattr(kind, name)
                else:
                    setattr(kind, name, own)
        self._replaced.clear()


def _trigger(name: str, original: Any) -> Any:
    def trigger(loop: Any, *args: Any, **settings: Any) -> Any:
        hooks: Hooks | None = vars(loop).pop(_HOOKS, None)
        if hooks is None:
            return original(loop, *args, **settings)
        hooks.install_rest()
        return getattr(loop, name)(*args, **settings)

    trigger.__name__ = trigger.__qualname__ = name
    return trigger
