"""What asks a program to end: whom it calls, for how long, and that what is ignored stays so."""

import asyncio
import os
import signal
from collections.abc import Iterator
from errno import EBADF
from types import FrameType
from typing import Any

import pytest

from muxleak_scenarios.cli import interrupt

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
every_signal = pytest.mark.parametrize("number", ENDING)


def earlier(_number: int, _frame: FrameType | None) -> None:
    """Handle a signal as a program did before."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Every test begins with handlers of its own, and leaves those that were there."""
    before = {each: signal.signal(each, earlier) for each in ENDING}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@every_signal
@pytest.mark.asyncio
async def test_signal_calls_as_often_as_it_comes(number: signal.Signals) -> None:
    """Within the block; after it, what handled the signal before does so again."""
    called = asyncio.Semaphore(0)
    with interrupt.calling(asyncio.get_running_loop(), called.release):
        for _ in range(2):
            signal.raise_signal(number)
            await called.acquire()
    signal.raise_signal(number)

    assert called.locked()
    assert signal.getsignal(number) is earlier


@every_signal
@pytest.mark.asyncio
async def test_signal_that_is_ignored_stays_so(number: signal.Signals) -> None:
    """As `nohup` wants it: neither form asks the program to end."""
    signal.signal(number, signal.SIG_IGN)
    with interrupt.caught() as stopped:
        signal.raise_signal(number)
        assert not stopped()
    with interrupt.calling(asyncio.get_running_loop(), bool):
        # A handler of the loop's would be called in its next iteration only.
        assert signal.getsignal(number) == signal.SIG_IGN

    assert signal.getsignal(number) == signal.SIG_IGN


@every_signal
@pytest.mark.asyncio
async def test_signal_is_ignored_once_the_program_is_cancelled(number: signal.Signals) -> None:
    """It is about to end; any other error is the caller's, and changes nothing."""
    loop = asyncio.get_running_loop()
    with pytest.raises(ValueError, match="other"), interrupt.calling(loop, bool):
        raise ValueError("other")
    assert signal.getsignal(number) is earlier

    with pytest.raises(asyncio.CancelledError), interrupt.calling(loop, bool):
        raise asyncio.CancelledError
    assert signal.getsignal(number) == signal.SIG_IGN


@every_signal
@pytest.mark.asyncio
async def test_signal_between_two_handlers_ends_nothing(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the handlers of a cancelled program are replaced, each has one of ours."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, asyncio.SelectorEventLoop)

    def press_after(function: Any) -> Any:
        def pressed(*args: Any) -> Any:
            found = function(*args)
            signal.raise_signal(number)
            return found

        return pressed

    monkeypatch.setattr(interrupt, "_signal", press_after(signal.signal))
    monkeypatch.setattr(loop, "remove_signal_handler", press_after(loop.remove_signal_handler))
    with pytest.raises(asyncio.CancelledError), interrupt.calling(loop, bool):
        raise asyncio.CancelledError
    assert signal.getsignal(number) == signal.SIG_IGN


@every_signal
def test_interrupt_ends_the_program_where_stderr_is_closed(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own exit code, though it can say nothing."""

    def write(_file: int, _data: bytes) -> None:
        raise OSError(EBADF, "Bad file descriptor")

    def end(code: int) -> None:
        raise SystemExit(code)

    interrupt.install()
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(SystemExit) as raised:
        signal.raise_signal(number)

    assert raised.value.code == interrupt.CODE


@every_signal
def test_interrupt_that_is_ignored_stays_so(number: signal.Signals) -> None:
    """As `nohup` wants it."""
    signal.signal(number, signal.SIG_IGN)
    interrupt.install()

    assert signal.getsignal(number) == signal.SIG_IGN


@every_signal
def test_signal_is_told_when_it_was_caught(number: signal.Signals) -> None:
    """To who asks; what handled the signal before does so again."""
    with interrupt.caught() as stopped:
        assert not stopped()
        signal.raise_signal(number)
        assert stopped()

    assert signal.getsignal(number) is earlier


@every_signal
def test_second_signal_ends_the_program(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and after what has to be done in any case."""
    done: list[str] = []
    monkeypatch.setattr(interrupt, "_end", lambda *_: done.append("end"))
    with interrupt.caught(lambda: done.append("last")) as stopped:
        signal.raise_signal(number)
        assert (stopped(), done) == (True, [])
        signal.raise_signal(number)

    assert done == ["last", "end"]


class Ended(BaseException):
    """Instead of the end of the program."""


def end(*_signal: object) -> None:
    """End a test as the program would be ended."""
    raise Ended


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A short grace, an end that can be seen, and a timer of somebody else's: that goes on."""
    monkeypatch.setattr(interrupt, "GRACE", 0.001)
    monkeypatch.setattr(interrupt, "_end", end)
    handler = signal.signal(signal.SIGALRM, earlier)
    left, _ = signal.setitimer(signal.ITIMER_REAL, 100, 7)
    yield
    after = signal.getsignal(signal.SIGALRM)
    rest, interval = signal.setitimer(signal.ITIMER_REAL, left)
    signal.signal(signal.SIGALRM, handler)
    assert after is earlier
    assert (0 < rest <= 100, interval) == (True, 7)


@every_signal
@pytest.mark.usefixtures("timer")
def test_signal_that_nobody_heeds_ends_the_program(number: signal.Signals) -> None:
    """As a second one does, after the same last words; however busy the program is."""
    last: list[str] = []

    def work() -> None:
        with interrupt.caught(lambda: last.append("words")):
            signal.raise_signal(number)
            while not last:
                pass

    with pytest.raises(Ended):
        work()

    assert last == ["words"]
    assert signal.getsignal(number) is earlier


@pytest.mark.usefixtures("timer")
def test_signal_that_was_asked_for_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has asked takes the time that it takes; a second one still ends the program."""
    monkeypatch.setattr(interrupt, "GRACE", 50)
    with interrupt.caught() as stopped:
        assert signal.getitimer(signal.ITIMER_REAL)[1] == 7
        signal.raise_signal(signal.SIGTERM)
        assert signal.getitimer(signal.ITIMER_REAL)[0] <= 50
        assert stopped()
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 50
        assert signal.getsignal(signal.SIGALRM) is earlier
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("timer")
def test_alarm_leaves_a_timer_that_is_due_sooner() -> None:
    """It rings for a block that takes longer than it may; no limit is one, too."""
    with interrupt.alarm(float("inf"), end), interrupt.alarm(1000, end):
        assert signal.getsignal(signal.SIGALRM) is earlier
    with interrupt.alarm(50, end):
        assert signal.getsignal(signal.SIGALRM) is end
        with pytest.raises(Ended), interrupt.alarm(0.001, end):
            signal.pause()
