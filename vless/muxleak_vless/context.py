"""Cancellation contexts with the semantics of Go's ``context`` package.

A context ends once, with a cause; its children end with it; ending a child leaves the parent alone.
This module knows nothing of connections.
"""

# The tree of a server: background, server, one context per connection. A handler watches the one of
# its connection, so that it hears of the end of the connection and of the server alike.
#
# Rules, which hold because nothing here awaits between a test of `cause` and the use of it:
#
# 1. `cause` is set once, before anything is woken. Whatever is woken finds it, and a second
#    `cancel` does nothing.
# 2. A context is registered with its parent until it ends, and only if the parent can end. A
#    connection that ends removes itself (`cancel`), so that the server's context does not grow with
#    each connection that has come and gone. A child of a context that has ended is created ended.
# 3. Wakers run in the order of registration, which Go leaves open: a run must be repeatable. Each
#    is removed before it is called, and one that an earlier waker removes is not called any more.
# 4. The background has no `cause` ever, registers nothing, and `wait` on it never returns. In Go
#    its `Done()` is nil; there, too, sing-vmess starts no watcher for it.
#
# A dict holds children and waiters, so registering and removing are O(1). A shared `asyncio.Event`
# would not do: it keeps its waiters in a deque, so cancelling n of them in any order but FIFO is
# quadratic. `muxleak bench` compares the two.
#
# `on_cancel` is the cheaper way to react: a callback is no task, so nothing can be left behind. The
# watcher of a session is a task all the same, because it stands for the goroutine of issue #2421.

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from muxleak_vless.errors import Cancelled, text_of

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("muxleak_vless")

_Registered: TypeAlias = "dict[object, Callable[[BaseException], None] | asyncio.Future[None]]"
# Shared by every context that has nothing registered; never changed.
_EMPTY: _Registered = {}


class Context:
    """A node in a tree of cancellation scopes.

    Args:
        name: Shown in reports.
        parent: Context that ends this one with it; None for the background.

    Attributes:
        cause: None until the context ends, then the exception it was cancelled with.
        cancellable: False for the background only (Go: ``Done()`` is nil), which never ends and
            needs no watcher.
    """

    __slots__ = ("__weakref__", "_parent", "_registered", "cancellable", "cause", "name")

    def __init__(self, name: str, parent: Context | None = None) -> None:
        self.name = name
        self.cause: BaseException | None = None
        self.cancellable = parent is not None
        self._parent = parent
        self._registered = _EMPTY
        if parent is None:
            return
        if parent.cause is not None:
            self.cause = parent.cause
        elif parent.cancellable:
            parent._register(self, self.cancel)  # noqa: SLF001 - a node of the same tree

    def __repr__(self) -> str:
        """Return name and state, without an address: reports must not differ between runs."""
        state = "live" if self.cause is None else f"ended: {text_of(self.cause)}"
        return f"<Context {self.name!r} {state}>"

    @classmethod
    def background(cls) -> Context:
        """Return a root that is never cancelled (Go: ``context.Background``)."""
        return cls("background")

    def child(self, name: str) -> Context:
        """Return a context that ends with this one, or earlier by its own `cancel`."""
        return Context(name, self)

    @property
    def cancelled(self) -> bool:
        """True once the context has ended."""
        return self.cause is not None

    def cancel(self, cause: BaseException | None = None) -> None:
        """End the context and its children with ``cause``; later calls do nothing.

        Waiters and callbacks are woken in the order of registration. One that a callback removes
        is not called any more.

        Args:
            cause: The reason; a `Cancelled` if None.

        Raises:
            RuntimeError: On the background context.
        """
        if not self.cancellable:
            raise RuntimeError("the background context cannot be cancelled; cancel a child of it")
        if self.cause is not None:
            return
        self.cause = cause if cause is not None else Cancelled(f"context {self.name!r} cancelled")
        if self._parent is not None:
            self._parent._registered.pop(self, None)  # noqa: SLF001 - the same
        registered = self._registered
        for key in list(registered):
            wake = registered.pop(key, None)
            if wake is None:
                continue
            try:
                if callable(wake):
                    wake(self.cause)
                elif not wake.done():
                    wake.set_result(None)
            except Exception:  # a callback is anybody's code, and others wait for this end, too
                log.exception("a callback of %r raised", self)
        # Nothing is registered once there is a cause, and a context may be kept for long.
        self._registered = _EMPTY

    def on_cancel(self, callback: Callable[[BaseException], None]) -> Callable[[], None]:
        """Call ``callback(cause)`` when the context ends, at once if it has.

        Args:
            callback: Should not raise. An exception is logged, and the next callback is called.

        Returns:
            A function that removes the callback.
        """
        if self.cause is not None:
            callback(self.cause)
        elif self.cancellable:
            key = object()
            self._register(key, callback)
            return partial(self._forget, key)
        return _nothing

    async def wait(self) -> BaseException:
        """Wait until the context ends and return its cause. Never returns for the background."""
        if self.cause is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if self.cancellable:
                self._register(waiter, waiter)
            try:
                await waiter
            finally:
                self._registered.pop(waiter, None)
        if self.cause is None:
            raise AssertionError("woken without a cause")
        return self.cause

    def _register(
        self, key: object, wake: Callable[[BaseException], None] | asyncio.Future[None]
    ) -> None:
        if self._registered is _EMPTY:
            self._registered = {}
        self._registered[key] = wake

    def _forget(self, key: object) -> None:
        self._registered.pop(key, None)


def _nothing() -> None:
    pass
