"""Refuses calls inside a simulation that bypass its loop: threads, sockets, processes, sleep."""

# The simulated loop refuses its own methods that leave the simulation (see `FencedLoop`). A program
# can also leave it without asking the loop: `time.sleep`, a thread, a plain socket. Such a call
# would take real time or give an answer that no replay repeats, so that a run could not be repeated
# and nobody would know why. For the length of a simulation these functions are therefore replaced
# by ones that look at the running loop of the calling thread first. Other threads, and code outside
# the simulation, pass. The replacement costs one look-up per call and only while a simulation runs.
#
# A module may have imported a function by name (`from time import sleep`), and then refers to the
# function itself. So the variables of all modules are searched for the functions, each module once,
# and replaced as well. muxleak's own modules are left alone: they act for the user, outside the
# program.
#
# Two entries concern threads that were started before: a job given to their pool, and a wait for
# them, which also takes real time.
#
# Unseen are, and docs/simulation.md says so: references that are kept elsewhere (an attribute of a
# class, a default argument), the methods of locks, files and the clock, and code in C.

import _thread
import asyncio
import concurrent.futures
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from types import ModuleType
from typing import Any
from weakref import ref

from muxleak.introspect.names import namespace
from muxleak.sim.errors import refusal
from muxleak.sim.network import Fabric
from muxleak.sim.virtual_loop import FencedLoop

_NAMES: tuple[tuple[Any, str], ...] = (
    (threading.Thread, "start"),
    (threading.Condition, "wait"),
    (_thread, "start_new_thread start_joinable_thread"),
    (concurrent.futures.ThreadPoolExecutor, "submit"),
    (socket.socket, "connect connect_ex bind listen sendto sendmsg"),
    (socket, "getaddrinfo gethostbyname gethostbyname_ex gethostbyaddr getnameinfo"),
    (select, "select"),
    (subprocess.Popen, "__init__"),
    (os, "system fork forkpty posix_spawn posix_spawnp execv execve"),
    (sys.modules.get("_posixsubprocess"), "fork_exec"),  # by which multiprocessing spawns
    (signal, "signal alarm setitimer pause sigwait"),
    (time, "sleep"),
    (gc, "collect"),  # not refused: see `_collecting`
)
_OURS = ("muxleak", "muxleak_scenarios", "muxleak_vless")
_GUARDED = [
    (owner, name) for owner, names in _NAMES for name in names.split() if hasattr(owner, name)
]
_ORIGINALS = {
    id(getattr(owner, name)): (owner, name)
    for owner, name in _GUARDED
    if isinstance(owner, ModuleType)
}
_Saved = tuple[Any, str, Any, bool]
_saved: list[_Saved] = []
_imported: list[tuple[ref[ModuleType], str, Any]] = []  # variables that hold a guarded function
# By id, with a reference, as an id is used again after a module was freed.
_searched: dict[int, ref[ModuleType]] = {}
_last: list[Any] = [0, lambda: None]  # at the last search: number of modules, the newest one
_depth = 0


@contextmanager
def guarded() -> Iterator[None]:
    """Refuse calls that leave the simulation, for the length of a block; blocks may be nested."""
    global _depth  # noqa: PLW0603 - the functions guarded are the whole process's
    if not _depth:
        _install()
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            _remove()


def _install() -> None:
    _search()
    for owner, name in _GUARDED:
        _replace(owner, name, getattr(owner, name))
    for module, name, original in _imported:
        found = module()
        if found is not None and namespace(found).get(name) is original:
            _replace(found, name, original)


def _replace(owner: Any, name: str, original: Any) -> None:
    _saved.append((owner, name, original, name in vars(owner)))
    known = _ORIGINALS.get(id(original))
    setattr(owner, name, _wrapped(*(known or (owner, name)), original))


def _remove() -> None:
    while _saved:
        owner, name, original, own = _saved.pop()
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)


def _search() -> None:
    """Note the variables of modules that hold a guarded function; looks at each module once."""
    newest = sys.modules.get(next(reversed(sys.modules), ""))
    if [len(sys.modules), newest] == [_last[0], _last[1]()]:
        return
    _last[:] = len(sys.modules), ref(newest) if isinstance(newest, ModuleType) else object
    _imported[:] = [each for each in _imported if each[0]() is not None]
    owners = {id(owner) for owner, _ in _GUARDED}
    for title, module in list(sys.modules.items()):
        known = _searched.get(id(module))
        if type(module) is not ModuleType or (known is not None and known() is module):
            continue
        _searched[id(module)] = ref(module)
        if id(module) in owners or title.partition(".")[0] in _OURS:
            continue
        for name, value in list(namespace(module).items()):
            if id(value) in _ORIGINALS:
                _imported.append((ref(module), name, value))


@cache
def _wrapped(owner: Any, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    if owner is gc:
        return _collecting(original)
    shown = f"{owner.__name__}.{name}".replace(".__init__", "")

    @wraps(original)
    def ask(*args: Any, **settings: Any) -> Any:
        if isinstance(asyncio._get_running_loop(), FencedLoop):  # noqa: SLF001 - the public one raises when there is none
            raise refusal(f"{shown} leaves the simulation: nothing here is real")
        return original(*args, **settings)

    return ask


def _collecting(original: Callable[..., int]) -> Callable[..., int]:
    """Return `gc.collect` that also closes the connections which the program has dropped."""

    @wraps(original)
    def collect(*args: Any, **settings: Any) -> int:
        fabric = getattr(asyncio._get_running_loop(), "fabric", None)  # noqa: SLF001 - as above
        if not isinstance(fabric, Fabric):
            return original(*args, **settings)
        with fabric.collecting():
            return original(*args, **settings)

    return collect
