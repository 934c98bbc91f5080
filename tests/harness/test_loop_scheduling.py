"""Scheduling on virtual time does in one call what asyncio does in several, and no more."""

import asyncio
import threading
from contextvars import ContextVar, copy_context

import pytest

from muxleak.sim.errors import SimulationError
from muxleak.sim.virtual_loop import WAKES_SLEEPER, LoopHandle, VirtualLoop

VARIABLE: ContextVar[int] = ContextVar("variable", default=0)


@pytest.mark.parametrize("kind", ["soon", "due"])
def test_handles_have_what_asyncios_have(loop: VirtualLoop, kind: str) -> None:
    """Every attribute of an original handle is there, with the same value."""
    context = copy_context()
    own: asyncio.Handle
    original: asyncio.Handle
    if kind == "soon":
        own, original = (
            LoopHandle(None, print, (1,), loop, context),
            asyncio.Handle(print, (1,), loop, context),
        )
    else:
        own = LoopHandle(2.5, print, (1,), loop, context)
        original = asyncio.TimerHandle(2.5, print, (1,), loop, context)
        original._scheduled = True  # type: ignore[attr-defined]
    names = [
        name
        for each in type(original).__mro__
        for name in getattr(each, "__slots__", ())
        if name != "__weakref__"
    ]

    assert len(names) > 6
    for name in names:
        assert getattr(own, name) == getattr(original, name), name
    assert repr(own).split(" ", 1)[1] == repr(original).split(" ", 1)[1]
    own.cancel()
    assert own.cancelled()


def test_handles_of_call_soon_are_each_their_own(loop: VirtualLoop) -> None:
    """As asyncio's, they are equal to themselves only; timers are equal by what they do."""
    assert len({loop.call_soon(int), loop.call_soon(int)}) == 2
    assert loop.call_at(1, int) == loop.call_at(1, int)


def test_sleepers_are_woken_as_asyncio_does() -> None:
    """What the loop does in the place of this function is all that the function does."""
    assert WAKES_SLEEPER is not None
    assert WAKES_SLEEPER.__code__.co_names == ("cancelled", "set_result")


def test_handles_are_made_by_the_loop(loop: VirtualLoop) -> None:
    """Each call makes its own kind, in the current context or the one that is given."""
    seen: list[tuple[int, ...]] = []
    context = copy_context()
    context.run(VARIABLE.set, 7)

    soon = loop.call_soon(lambda: seen.append((VARIABLE.get(),)), context=context)
    later = loop.call_later(1, lambda *args: seen.append(args), 1, 2)
    at = loop.call_at(2, lambda one: seen.append((one,)), 3)
    loop.advance(2)

    assert (type(soon), type(later), type(at)) == (LoopHandle,) * 3
    assert (later.when(), at.when()) == (1.0, 2.0)
    assert seen == [(7,), (1, 2), (3,)]


def test_debug_mode_uses_asyncios_own_handles(loop: VirtualLoop) -> None:
    """In debug mode handles remember where they were made, and C code is told of the mode."""
    assert loop.get_debug() is False
    loop.set_debug(enabled=True)

    assert loop.get_debug() is True
    assert type(loop.call_soon(int)) is asyncio.Handle
    assert type(loop.call_later(1, int)) is asyncio.TimerHandle
    assert type(loop.call_at(1, int)) is asyncio.TimerHandle
    assert loop.create_future()._source_traceback  # type: ignore[attr-defined]
    loop.advance(1)
    loop.set_debug(enabled=False)
    assert loop.get_debug() is False


def test_closed_loop_schedules_nothing(loop: VirtualLoop) -> None:
    """A closed loop says so, as asyncio's does."""
    loop.close()

    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.call_soon(int)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.call_later(1, int)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.call_at(1, int)


def test_cancelled_timers_are_counted(loop: VirtualLoop) -> None:
    """A timer counts as cancelled once, and only while the loop still holds it."""
    first, second = loop.call_later(1, int), loop.call_later(2, int)
    first.cancel()
    first.cancel()
    assert loop.pending_timers == 1

    loop.advance(3)
    second.cancel()
    assert loop.pending_timers == 0


def test_failing_callback_reaches_the_exception_handler(loop: VirtualLoop) -> None:
    """What a callback raises is told as asyncio tells it, whatever its arguments."""
    seen: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: seen.append(context))
    handle = loop.call_soon(int, "x")
    loop.call_soon(int, "x", 5)
    loop.call_soon(lambda: int("x"))
    loop.run_until_quiescent()

    assert len(seen) == 3
    assert "Exception in callback int(" in str(seen[0]["message"])
    assert seen[0]["handle"] is handle
    assert isinstance(seen[0]["exception"], ValueError)


def test_keyboard_interrupt_ends_the_run(loop: VirtualLoop) -> None:
    """Control-C in a callback is not swallowed."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    loop.call_soon(interrupt)

    with pytest.raises(KeyboardInterrupt):
        loop.run_until_quiescent()


def test_threadsafe_calls_stay_in_the_thread(loop: VirtualLoop) -> None:
    """From the loop's own thread it is `call_soon`; from another it is refused."""
    errors: list[BaseException] = []
    seen: list[int] = []

    def elsewhere() -> None:
        try:
            loop.call_soon_threadsafe(int)
        except SimulationError as exc:
            errors.append(exc)

    loop.call_soon_threadsafe(seen.append, 1)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    loop.run_until_quiescent()

    assert seen == [1]
    assert "from another thread" in str(errors[0])
