"""Refuses calls inside a simulation that bypass its loop: threads, sockets, processes, sleep."""

# The simulated loop refuses its own methods that leave the simulation (see `FencedLoop`). A program
# can also leave it without asking the loop: `time.sleep`, a thread, a plain socket. Such a call
# would take real time or give an answer that no replay repeats, so that a run could not be repeated
# and nobody would know why. For the length of a simulation these functions are therefore replaced
# by ones that look at the running loop of the calling thread first. Other threads, and code outside
# the simulation, pass. The replacement costs one look-up per call and only while a simulation runs.

import asyncio
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from muxleak.sim.errors import refusal
from muxleak.sim.virtual_loop import FencedLoop

_GUARDED: tuple[tuple[Any, str], ...] = (
    (threading.Thread, "start"),
    (socket.socket, "connect"),
    (socket.socket, "connect_ex"),
    (socket.socket, "bind"),
    (socket.socket, "listen"),
    (socket, "getaddrinfo"),
    (subprocess.Popen, "__init__"),
    (os, "system"),
    (os, "fork"),
    (signal, "signal"),
    (time, "sleep"),
)
_saved: list[tuple[Any, str, Any, bool]] = []
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
    for owner, name in _GUARDED:
        original = getattr(owner, name, None)
        if original is not None:
            _saved.append((owner, name, original, name in vars(owner)))
            setattr(owner, name, _wrapped(owner, name, original))


def _remove() -> None:
    while _saved:
        owner, name, original, own = _saved.pop()
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)


def _wrapped(owner: Any, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    shown = f"{owner.__name__}.{name}".replace(".__init__", "")

    @wraps(original)
    def ask(*args: Any, **settings: Any) -> Any:
        if isinstance(asyncio._get_running_loop(), FencedLoop):  # noqa: SLF001 - the public one raises when there is none
            raise refusal(f"{shown} leaves the simulation: nothing here is real")
        return original(*args, **settings)

    return ask
