"""Signals that end the program, with the exit code that shells expect of Ctrl-C."""

# By default, Python raises KeyboardInterrupt wherever the program happens to be. Here that is often
# a finalizer, a garbage-collection callback or a weakref callback, which swallow it, or an event
# loop halfway through a task, which is then left in no defined state. So no signal raises an
# exception. There are three ways to end instead:
#
# - `install`, for every command: the first signal prints one line and leaves the process with
#   `os._exit`. There is nothing to save, and the kernel closes the sockets. Child processes of a
#   command that uses this end with it (see `bench.row_process`).
# - `caught`, for a search that has results: the first signal is only noted. The search asks between
#   two runs, ends, and shows what it has. A second signal ends the program at once, and so does the
#   first if the search has not asked within `GRACE`: a run that blocks can only be ended from a
#   signal handler.
# - `calling`, for a server in an event loop: the signal calls something in the loop, as often as it
#   comes. Servers of others that were started must be ended, which no impatience may skip.
#
# A signal that is ignored when the program starts stays ignored, as `nohup` and shells without job
# control want it.
#
# `signal.signal` and `signal.setitimer` are looked up once, here: a simulation guards both names in
# their module while a program under test runs, and Ctrl-C may fall into such a run.

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Iterator
    from types import FrameType

    Handler = Callable[[int, FrameType | None], object] | int | None

CODE = 130
ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that ask a program to end."""
GRACE = 10.0
"""Seconds in which a command must react to a signal, or to the end of its time."""
_signal = signal.signal
_setitimer: Any = getattr(signal, "setitimer", None)
_STDERR = 2
_LONGEST = 1e9
"""Longest time of a timer, in seconds, that every system accepts."""
# Erase the line of progress, or the ^C, and show the cursor that progress had hidden.
_CLEAR = "\r\x1b[K\x1b[?25h"


def install() -> None:
    """End the program at once on every signal of `ENDING` that is not ignored, from now on."""
    for each in _heeded():
        _signal(each, _end)


@contextmanager
def caught(last: Callable[[], object] = bool) -> Iterator[Callable[[], bool]]:
    """Note signals for the length of a block, instead of ending the program.

    The second signal ends the program at once, and so does the first if the block has not asked
    for it within `GRACE` seconds.

    Args:
        last: called in the signal handler before the program ends; it must not wait for long.

    Yields:
        A function that returns True from the first signal on.
    """
    seen = False
    unheeded = ExitStack()

    def end(number: int, frame: FrameType | None) -> None:
        last()
        _end(number, frame)

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            end(number, frame)
        seen = True
        unheeded.enter_context(alarm(GRACE, end))

    def asked() -> bool:
        if seen:
            unheeded.close()
        return seen

    before = _heeded()
    for each in before:
        _signal(each, note)
    try:
        yield asked
    finally:
        for each, handler in before.items():
            _signal(each, handler)
        unheeded.close()


@contextmanager
def alarm(seconds: float, ring: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Call a function in the main thread if a block takes longer than a time.

    Args:
        seconds: the time.
        ring: called as a signal handler, wherever the program is then.
    """
    # There is one such timer for each process. One that is set already, as by pytest-timeout, goes
    # on after the block, less the time of the block; one that is due sooner is left alone, and
    # `ring` is then never called. Windows has no such timer.
    if not hasattr(signal, "setitimer"):
        yield
        return
    seconds = min(_LONGEST, seconds)
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    if 0 < left <= seconds:
        yield
        return
    before = _signal(signal.SIGALRM, ring)
    _setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        unspent, _ = _setitimer(signal.ITIMER_REAL, 0)
        _signal(signal.SIGALRM, before)
        if left:
            _setitimer(signal.ITIMER_REAL, left - seconds + unspent, interval)


@contextmanager
def calling(loop: AbstractEventLoop, callback: Callable[[], object]) -> Iterator[None]:
    """Call a function in an event loop on every signal, for the length of a block.

    Args:
        loop: the loop that runs the block.
        callback: called in it.
    """
    # `muxleak --help` takes half as long without asyncio, which is imported wherever a loop runs.
    from asyncio import CancelledError  # noqa: PLC0415

    def call(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(callback)

    before = _heeded()
    # Not by the loop's `add_signal_handler`: its counterpart sets the default handlers first, by
    # which a signal that comes just then would end the program.
    for each in before:
        _signal(each, call)
    try:
        yield
    except CancelledError:
        # The program ends what it has started, and no further signal may cut that short.
        before = dict.fromkeys(before, signal.SIG_IGN)
        raise
    finally:
        for each, handler in before.items():
            _signal(each, handler)


def _heeded() -> dict[int, Handler]:
    """Return the handlers of the signals of `ENDING` that are not ignored."""
    handlers = {each: signal.getsignal(each) for each in ENDING}
    return {each: handler for each, handler in handlers.items() if handler != signal.SIG_IGN}


def leave(text: str, code: int) -> NoReturn:
    """End the program at once; a signal handler may call this, too.

    Args:
        text: a line for stderr.
        code: the exit code.
    """
    clear = _CLEAR if sys.stderr is not None and sys.stderr.isatty() else ""
    # Not through `sys.stderr`: the signal may have come in the middle of a write to it.
    with suppress(OSError):
        os.write(_STDERR, f"{clear}{text}\n".encode())
    os._exit(code)


def _end(_number: int, _frame: FrameType | None) -> None:
    leave("interrupted", CODE)
