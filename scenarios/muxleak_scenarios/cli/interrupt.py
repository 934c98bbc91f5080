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
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

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
GRACE = 10.0
"""Seconds for a command to heed that it was told to end, or that its time is up."""
# Ctrl-C may fall into a simulation, which guards the name in the module.
_signal = signal.signal
_STDERR = 2
_LONGEST = 1e9
"""Seconds that a timer can be set to everywhere."""
# Erase the line of progress, or the ^C, and show the cursor that progress had hidden.
_CLEAR = "\r\x1b[K\x1b[?25h"


def install() -> None:
    """End the program on Ctrl-C, from now on."""
    _signal(signal.SIGINT, _end)


@contextmanager
def caught(last: Callable[[], object] = bool) -> Iterator[Callable[[], bool]]:
    """For the length of a block, let `ENDING` be asked for; a second one ends the program at once.

    So does the first, if nobody has asked for it within `GRACE`. ``last`` is called before that. A
    signal that is ignored stays so.
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
    """Call something, wherever the program is then, if a block takes longer than ``seconds``.

    A timer that was set before goes on after the block; one that is due sooner stays, and ``ring``
    is then not called. Nor is it where there are no such timers, as on Windows.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return
    seconds = min(_LONGEST, seconds)
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    if 0 < left <= seconds:
        yield
        return
    before = _signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        unspent, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        _signal(signal.SIGALRM, before)
        if left:
            signal.setitimer(signal.ITIMER_REAL, left - seconds + unspent, interval)


@contextmanager
def calling(loop: AbstractEventLoop, callback: Callable[[], object]) -> Iterator[None]:
    """For the length of a block, let `ENDING` call something in a loop, as often as asked for.

    A signal that is ignored stays so. On Windows, Ctrl-C ends the program at once, as before. A
    block that is cancelled ends the program, which no further signal then cuts short.
    """
    # `muxleak --help` takes half as long without asyncio, which is imported wherever a loop runs.
    from asyncio import CancelledError  # noqa: PLC0415

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


def leave(text: str, code: int) -> NoReturn:
    """End the program at once with a line on stderr; from a signal handler, too."""
    clear = _CLEAR if sys.stderr is not None and sys.stderr.isatty() else ""
    # Not through `sys.stderr`: the signal may have come in the middle of a write to it.
    with suppress(OSError):
        os.write(_STDERR, f"{clear}{text}\n".encode())
    os._exit(code)


def _end(_number: int, _frame: FrameType | None) -> None:
    leave("interrupted", CODE)
