"""Ctrl-C: the program ends at once, with one line and the exit code that shells expect.

Not by an exception: one that is raised wherever the program happens to be is swallowed by
finalizers and garbage-collection callbacks, or stops an event loop halfway through a task. There is
nothing to save here, and the kernel closes the sockets. A command that has something to save asks
whether it was told to stop.
"""

from __future__ import annotations

import os
import signal
import sys
from asyncio import CancelledError
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Iterator
    from types import FrameType

    Handler = Callable[[int, FrameType | None], object] | int | None

CODE = 130
ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""What asks a program to end."""
# Ctrl-C may fall into a simulation, which guards the name in the module.
_signal = signal.signal
_STDERR = 2
# Erase the line of progress, or the ^C, and show the cursor that progress had hidden.
_CLEAR = "\r\x1b[K\x1b[?25h"


def install() -> None:
    """End the program on Ctrl-C, from now on."""
    _signal(signal.SIGINT, _end)


@contextmanager
def caught(last: Callable[[], object] = bool) -> Iterator[Callable[[], bool]]:
    """For the length of a block, let `ENDING` be asked for; a second one ends the program at once.

    ``last`` is called before that. A signal that is ignored stays so.
    """
    seen = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            last()
            _end(number, frame)
        seen = True

    before = _heeded()
    for each in before:
        _signal(each, note)
    try:
        yield lambda: seen
    finally:
        for each, handler in before.items():
            _signal(each, handler)


@contextmanager
def calling(loop: AbstractEventLoop, callback: Callable[[], object]) -> Iterator[None]:
    """For the length of a block, let `ENDING` call something in a loop, as often as asked for.

    A signal that is ignored stays so. On Windows, Ctrl-C ends the program at once, as before. A
    block that is cancelled ends the program, which no further signal then cuts short.
    """
    before = _heeded()
    for each in before:
        with suppress(NotImplementedError):
            loop.add_signal_handler(each, callback)
    try:
        yield
    except CancelledError:
        before = dict.fromkeys(before, signal.SIG_IGN)
        raise
    finally:
        for each, handler in before.items():
            with suppress(NotImplementedError):
                loop.remove_signal_handler(each)
            _signal(each, handler)


def _heeded() -> dict[int, Handler]:
    """Return what handles `ENDING`, but for what is ignored, as `nohup` wants it."""
    handlers = {each: signal.getsignal(each) for each in ENDING}
    return {each: handler for each, handler in handlers.items() if handler != signal.SIG_IGN}


def _end(_number: int, _frame: FrameType | None) -> None:
    clear = _CLEAR if sys.stderr is not None and sys.stderr.isatty() else ""
    # Not through `sys.stderr`: the signal may have come in the middle of a write to it.
    with suppress(OSError):
        os.write(_STDERR, f"{clear}interrupted\n".encode())
    os._exit(CODE)
