"""Hooks of the whole process that record new executor jobs and threads.

They are in place while a ledger that asks for them is installed. A thread of a pool is charged to
the scope that made the pool; a loop's own pool, which the loop shuts down, is no leak.
"""

# Threads and jobs are made by classes of the standard library, without a loop, so the methods of
# those classes are replaced: `Thread.start`, `ThreadPoolExecutor.__init__` and `submit`, and
# `ProcessPoolExecutor.submit` if the process has imported it (importing it here would load half of
# multiprocessing for nothing). The first ledger puts the hooks in place, the last one removes those
# that nobody has replaced since.
#
# Charged is one scope for each ledger concerned: the innermost scopes of the current context, and
# the roots of the ledgers of the loop that runs in this thread. A thread that runs outside every
# scope and every loop charges nobody; a context variable does not pass to a new thread by itself.
#
# Workers of a pool are a case of their own. A pool starts a worker at some `submit`, in whatever
# scope that happens to be, and keeps it until it is shut down. So a worker is charged to the place
# and the scopes where its *pool* was made. A pool that was made before the ledger was installed is
# unknown, and a pool that a loop makes for itself is left out (`DEFAULT_POOL`): the workers of both
# charge nobody. The standard library starts a worker with a weak reference to its pool as the first
# argument, which is how a worker is recognised. The threads by which a process pool manages its
# processes are left out, too.
#
# A job runs in the scope of its caller: what it hands to the loop by `run_coroutine_threadsafe` is
# charged to that scope. No context passes to a job by itself; with ``-X thread_inherit_context=1``
# (Python 3.14, the default of free-threaded builds) a worker keeps the context of the first caller,
# so the scope is set for jobs of callers without one, too. Nothing passes to another process.
#
# The records go onto `Counters.fresh`, which takes entries from any thread.

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, ref

from muxleak.introspect.foreign import ByIdentity
from muxleak.introspect.names import attribute, is_a, type_name
from muxleak.introspect.sites import Points, trace
from muxleak.introspect.waiting import callable_name
from muxleak.ledger.counters import CURRENT, Resource, Scope
from muxleak.ledger.hooks import DEFAULT_POOL
from muxleak.ledger.kinds import JobRecord, ThreadRecord

INHERITS = bool(getattr(sys.flags, "thread_inherit_context", 0))
"""True if a new thread keeps the context of the one that starts it."""
_PROCESS_POOL = "concurrent.futures.process", "multiprocessing.queues"

_roots: ByIdentity[tuple[Scope, ...]] = ByIdentity()  # by loop
_pools: WeakKeyDictionary[Any, tuple[Points, list[Scope]]] = WeakKeyDictionary()
_counted: list[Scope] = []  # the root of each `install`
_lock = threading.Lock()
_originals: list[tuple[Any, str, Any, Any]] = []


def install(loop: object, root: Scope) -> None:
    """Record new jobs and threads for a ledger.

    Args:
        loop: jobs and threads that are made in its thread outside every scope are charged to
            `root`. Any other object that can be referred to weakly, in place of a loop, means that
            scopes alone are charged.
        root: the root of the ledger.
    """
    with _lock:
        _roots.set(loop, (*_roots.get(loop, ()), root))
        _counted.append(root)
        if len(_counted) == 1:
            _replace(ThreadPoolExecutor, "__init__", _new_pool)
            _replace(ThreadPoolExecutor, "submit", partial(_submit, run=_in_scope))
            # A program that has a process pool has imported it.
            processes = sys.modules.get("concurrent.futures.process")
            if processes is not None:
                _replace(processes.ProcessPoolExecutor, "submit", _submit)
            _replace(threading.Thread, "start", _start)


def remove(loop: object, root: Scope) -> None:
    """Undo one `install`."""
    with _lock:
        left = [*_roots.get(loop, ())]
        _roots.remove(loop)
        if root in left:
            left.remove(root)
        if left:
            _roots.set(loop, tuple(left))
        _counted.remove(root)
        if not _counted:
            for owner, name, ours, original in _originals:
                if getattr(owner, name) is ours:
                    setattr(owner, name, original)
            _originals.clear()


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    ours = make(original)
    setattr(owner, name, ours)
    _originals.append((owner, name, ours, original))


def _scopes(kind: str) -> Iterator[Scope]:
    """Yield the scopes that are charged in this thread now, one for each ledger concerned."""
    seen = []
    scope = CURRENT.get()
    while scope is not None:
        if scope.counters not in seen:
            seen.append(scope.counters)
            yield scope
        scope = scope.outer
    loop = asyncio._get_running_loop()  # noqa: SLF001 - documented for loop implementations
    for root in _roots.get(loop, ()) if loop is not None else ():
        if root.counters not in seen and kind in root.counters.kinds:
            yield root


def _new_pool(original: Any) -> Any:
    def __init__(self: Any, *args: Any, **settings: Any) -> None:  # noqa: N807 - it replaces one
        original(self, *args, **settings)
        if not DEFAULT_POOL.get():
            _pools[self] = trace(2), list(_scopes("thread"))

    return __init__


def _submit(original: Any, run: Callable[[Any], Any] = lambda fn: fn) -> Any:
    def submit(self: Any, fn: Any, /, *args: Any, **settings: Any) -> Any:
        future = original(self, run(fn), *args, **settings)
        for scope in _scopes("job"):
            _note(JobRecord, future, _job_name(fn), trace(2), scope)
        return future

    return submit


def _in_scope(fn: Any) -> Any:
    """Return a job that runs in the current scope."""
    scope = CURRENT.get()
    if scope is None and not INHERITS:
        return fn

    def job(*args: Any, **settings: Any) -> Any:
        token = CURRENT.set(scope)
        try:
            return fn(*args, **settings)
        finally:
            CURRENT.reset(token)

    return job


def _start(original: Any) -> Any:
    def start(self: threading.Thread) -> None:
        # Before it runs: a thread that has ended has dropped its function and arguments.
        pool, name = pool_of(self), _thread_name(self)
        original(self)
        if pool is None and type(self).__module__ not in _PROCESS_POOL:
            points, scopes = trace(2), list(_scopes("thread"))
        else:
            points, scopes = _pools.get(pool, ([], [])) if pool is not None else ([], [])
            name = "worker of a pool that is not shut down"
        for scope in scopes:
            _note(ThreadRecord, self, name, points, scope)

    return start


def _note(record: type[Resource], thing: Any, name: str, points: Points, scope: Scope) -> None:
    """Record a job or a thread for one ledger; never raises."""
    counters = scope.counters
    # Not `active`: the plugin counts the threads of tests that run no loop.
    if record.kind in counters.kinds and any(each.counters is counters for each in _counted):
        try:
            counters.fresh.append(record(thing, name, points, scope))
        except Exception as error:  # noqa: BLE001 - the program must not see it
            counters.hide(record.kind, f"{type_name(thing)}, which raise {type_name(error)}")


def pool_of(thread: threading.Thread) -> Any:
    """Return the pool whose worker `thread` is; None if there is none."""
    args = attribute(thread, "_args")
    first: Any = args[0] if type(args) is tuple and args else None
    pool = first() if is_a(first, ref) else None
    return pool if is_a(pool, ThreadPoolExecutor) else None


def _thread_name(thread: threading.Thread) -> str:
    target = attribute(thread, "_target")
    return callable_name(target) if target is not None else type(thread).__qualname__


def _job_name(fn: Any) -> str:
    """Return the name of the function of a job; `to_thread` wraps it in a call of its context."""
    args = attribute(fn, "args")
    wraps = type(args) is tuple and args
    # A function of the context's is compared by name: each context has its own.
    hidden = wraps and attribute(attribute(fn, "func"), "__qualname__") == "Context.run"
    return callable_name(args[0] if hidden else fn)
