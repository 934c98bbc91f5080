"""Installs the ledger of a session on every event loop of its thread, and reports their ends."""

# Tests get their loops from pytest-asyncio, from anyio's plugin, from `asyncio.run`, from unittest,
# or from a loop factory of their own. There is no hook for a new loop, but every one of these makes
# an `asyncio.BaseEventLoop` or a `uvloop.Loop`, and runs and closes it by the same methods. So the
# watcher replaces methods of the classes, for as long as it is started:
#
# - `BaseEventLoop.__init__` installs a ledger, so that a task made before the first run is counted.
#   A subclass may set attributes after `super().__init__()` that the ledger needs; then its first
#   `run_forever` installs the ledger.
# - `run_forever` installs the ledger on the other loops (uvloop's, and loops older than the
#   watcher). At the first run it installs the ledger again if a task factory was set since, because
#   that factory replaced the counting one.
# - `asyncio.runners._cancel_all_tasks`, which a runner calls at its end, and `close` of each loop
#   are the last moments at which the objects left on the loop are still as the test left them. The
#   callback `ending` measures there, before they are cancelled.
# - Libraries that run or end loops in another way are seen by `checks.loop_ends`. A loop that runs
#   inside trio's cannot be run for a measurement; what is left on it is then reported at once.
#
# A loop of a simulated run is left alone. The run judges what is left of it, and is meant to fail
# in a search: a leak that a test looks for with `find_leaks` is not the test's own.
#
# All ledgers share the scopes and counts of one, so that a test is charged for the objects that it
# makes on any loop. Loops of other threads are not touched: measuring them is a race with the
# thread that runs them.
#
# The price per test is that of one ledger per loop. Most tests make no connection and use no
# executor, and replacing a dozen methods on each loop for these cost more than all the rest of the
# plugin; `DeferredHooks` replaces them once per class, and installs them on a loop at first use.

import asyncio
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from muxleak.checks.late_import import LateImport
from muxleak.checks.loop_ends import LibraryHooks
from muxleak.ledger import resource_warnings, threads
from muxleak.ledger.counters import Scope
from muxleak.ledger.factory import is_counting
from muxleak.ledger.hooks import RARE, Hooks
from muxleak.ledger.kinds import KINDS
from muxleak.ledger.ledger import Ledger
from muxleak.plugin.stalls import Stalled, watching

_Loop = asyncio.AbstractEventLoop

# Attributes of a loop:
_STATE = "_muxleak_watched"
_HOOKS = "_muxleak_hooks"


class _LoopState:
    """The state of one loop, stored on the loop.

    Attributes:
        ledger: installed on the loop; None once the loop has ended.
        new: True until the first run.
        home: the scope of the test that made the loop; None if no test did.
    """

    __slots__ = ("home", "ledger", "new")

    def __init__(self, ledger: Ledger, home: Scope | None) -> None:
        self.ledger: Ledger | None = ledger
        self.home = home
        self.new = True


class DeferredHooks:
    """Replaces rarely used methods of loop classes, to install the hooks of a loop at first use."""

    def __init__(self) -> None:
        self._replaced: dict[type, dict[str, Any]] = {}

    def defer(self, hooks: Hooks) -> None:
        """Call `install_rest` of these hooks when their loop calls one of the methods."""
        kind = type(hooks.loop)
        if kind not in self._replaced:
            own = vars(kind)
            self._replaced[kind] = {name: own.get(name) for name in RARE if hasattr(kind, name)}
            for name in self._replaced[kind]:
                setattr(kind, name, _installing(name, getattr(kind, name)))
        vars(hooks.loop)[_HOOKS] = hooks

    def forget(self, loop: _Loop) -> None:
        """Drop the hooks of a loop that has ended."""
        vars(loop).pop(_HOOKS, None)

    def remove(self) -> None:
        """Restore the methods of the classes."""
        for kind, methods in self._replaced.items():
            for name, own in methods.items():
                if own is None:
                    delattr(kind, name)
                else:
                    setattr(kind, name, own)
        self._replaced.clear()


class LoopWatcher:
    """Installs the ledger of a session on one loop after another.

    Args:
        ending: called with a loop before its tasks are cancelled; the loop can still be run, but
            for one that runs inside another library's.
        home: returns the scope of the test that is making a loop; None if no test is.
        stalled: called when a server waits in vain for its connections, see `stalls`.

    Attributes:
        ledger: its scopes are charged for the objects of every loop.
    """

    def __init__(
        self,
        ending: Callable[[_Loop], None],
        home: Callable[[], Scope | None] = lambda: None,
        stalled: Stalled = lambda _loop, _server: False,
    ) -> None:
        self.ledger = Ledger(KINDS, log=True)
        self._ending, self._home, self._stalled = ending, home, stalled
        self._thread = threading.get_ident()
        self._loops: WeakSet[_Loop] = WeakSet()
        self._deferred = DeferredHooks()
        self._replaced: list[tuple[Any, str, Any]] = []

        def see_uvloop(uvloop: Any) -> None:
            self._replace(uvloop.Loop, "run_forever", self._around_run)

        others = LibraryHooks(self._replace, self._run_nested, self._end_at_once)
        self._late = LateImport({"uvloop": see_uvloop, **others.by_module()})

    def start(self) -> None:
        """Watch loops from now on; those of uvloop from the end of its import on."""
        if not self._replaced:
            base = asyncio.BaseEventLoop
            self._replace(base, "__init__", self._around_init)
            self._replace(base, "run_forever", self._around_run)
            # A runner calls it at its end; there is no public name for that moment.
            self._replace(asyncio.runners, "_cancel_all_tasks", self._around_cancel)
            self._replace(
                asyncio.base_events.Server,
                "wait_closed",
                lambda original: watching(original, self._stalled),
            )
            threads.install(self, self.ledger.root)
            resource_warnings.install(self.ledger)
            self._late.start()

    def stop(self) -> None:
        """Restore everything that `start` replaced."""
        if not self._replaced:
            return
        for owner, name, original in reversed(self._replaced):
            setattr(owner, name, original)
        self._replaced.clear()
        self._late.stop()
        threads.remove(self, self.ledger.root)
        resource_warnings.remove(self.ledger)
        for loop in list(self._loops):
            self._leave(loop)
            del vars(loop)[_STATE]
        self._deferred.remove()

    def open_loops(self) -> list[_Loop]:
        """Return the loops that can be run now."""
        return [loop for loop in self._loops if can_run(loop)]

    def unseen(self, loop: _Loop) -> tuple[str, ...]:
        """Return a line for each kind of object that cannot be counted on `loop`."""
        state = _state(loop)
        return state.ledger.unseen if state is not None and state.ledger is not None else ()

    def _replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        original = getattr(owner, name)
        self._replaced.append((owner, name, original))
        setattr(owner, name, make(original))

    def _around_init(self, original: Any) -> Any:
        def __init__(loop: Any, *args: Any, **settings: Any) -> None:  # noqa: N807 - it replaces one
            original(loop, *args, **settings)
            if self._is_ours(loop):
                try:
                    self._adopt(loop)
                except AttributeError:
                    # A subclass is not ready for this; its first run is early enough.
                    self._leave(loop)

        return __init__

    def _around_run(self, original: Any) -> Any:
        def run_forever(loop: Any) -> None:
            if self._is_ours(loop):
                self._run(loop)
            original(loop)

        return run_forever

    def _around_cancel(self, original: Any) -> Any:
        def cancel_all_tasks(loop: Any) -> None:
            self._end(loop)
            original(loop)

        return cancel_all_tasks

    def _is_ours(self, loop: _Loop) -> bool:
        """Return True for a loop of this thread whose tests are to be checked."""
        return threading.get_ident() == self._thread and not getattr(loop, "judges_itself", False)

    def _run(self, loop: _Loop) -> None:
        state = _state(loop)
        if state is None:
            state = self._adopt(loop)
        ledger = state.ledger if state.new else None
        if ledger is not None and not _counts(loop.get_task_factory()):
            # The loop's maker has set a task factory since `__init__`.
            ledger.uninstall()
            ledger.install(loop, rest=self._deferred.defer, home=state.home)
        state.new = False

    def _run_nested(self, loop: _Loop) -> None:
        """Watch a loop that runs by methods of its own, as nest_asyncio gives it."""
        state = _state(loop)
        if state is None or state.new:
            self._run(loop)

    def _adopt(self, loop: _Loop) -> _LoopState:
        ledger = Ledger(log=True, beside=self.ledger)
        home = self._home()
        ledger.install(loop, rest=self._deferred.defer, home=home)
        state = vars(loop)[_STATE] = _LoopState(ledger, home)
        self._loops.add(loop)
        original = loop.close

        def close() -> None:
            self._end(loop)
            original()

        loop.close = close  # type: ignore[method-assign]
        return state

    def _end(self, loop: _Loop) -> None:
        if loop in self._loops and threading.get_ident() == self._thread:
            if can_run(loop):
                self._ending(loop)
            self._leave(loop)

    def _end_at_once(self, loop: _Loop) -> None:
        """Measure on a loop whose leftovers a library cancels next, also if it cannot be run."""
        if loop in self._loops and not can_run(loop):
            self._ending(loop)
            self._leave(loop)
        self._end(loop)

    def _leave(self, loop: _Loop) -> None:
        state = _state(loop)
        self._loops.discard(loop)
        self._deferred.forget(loop)
        vars(loop).pop("close", None)
        if state is not None and state.ledger is not None:
            state.ledger.uninstall()
            state.ledger = None


def _installing(name: str, original: Any) -> Any:
    """Return a method that installs the hooks of its loop, if they wait, and passes the call on."""

    def method(loop: Any, *args: Any, **settings: Any) -> Any:
        hooks: Hooks | None = vars(loop).pop(_HOOKS, None)
        if hooks is None:
            return original(loop, *args, **settings)
        hooks.install_rest()
        # The hook is on the loop now and hides this method, so this calls the hook.
        return getattr(loop, name)(*args, **settings)

    method.__name__ = method.__qualname__ = name
    return method


def _state(loop: _Loop) -> _LoopState | None:
    return vars(loop).get(_STATE)


def can_run(loop: _Loop) -> bool:
    """Return True if a loop can be run in this thread now."""
    running = asyncio._get_running_loop()  # noqa: SLF001 - public, says the documentation, despite its name
    return running is None and not (loop.is_closed() or loop.is_running())


def _counts(factory: Any) -> bool:
    """Return True if a task factory counts, or passes calls on to one that does."""
    cells = (cell.cell_contents for cell in getattr(factory, "__closure__", None) or ())
    return is_counting(factory) or any(map(is_counting, cells))
