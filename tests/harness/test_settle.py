"""Settling on real loops: no sleep on the clean path, patience where there is reason for it."""

import asyncio
import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from loops import LOOPS, REAL, new_uvloop
from muxleak import LeakError, no_leaks
from muxleak.checks.settle import settle
from muxleak.ledger.ledger import Ledger
from muxleak.sim.memory_transport import memory_pair
from muxleak.sim.virtual_loop import VirtualLoop

Loops = Callable[[], asyncio.AbstractEventLoop]


def run(new_loop: Loops, main: Coroutine[Any, Any, None]) -> None:
    """Run on a fresh loop."""
    with contextlib.closing(new_loop()) as loop:
        loop.run_until_complete(main)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the delays given to asyncio.sleep."""
    delays: list[float] = []
    sleep = asyncio.sleep

    async def spy(delay: float) -> None:
        delays.append(delay)
        await sleep(delay)

    monkeypatch.setattr(asyncio, "sleep", spy)
    return delays


@LOOPS
def test_settle_runs_chains_of_callbacks_to_their_end(new_loop: Loops) -> None:
    """A chain of a hundred iterations is over when settle returns."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        left = 100 if visible else 3

        def again() -> None:
            nonlocal left
            left -= 1
            if left:
                loop.call_soon(again)

        loop.call_soon(again)
        assert await settle()
        assert left == 0

    visible = new_loop is not new_uvloop
    run(new_loop, main())


def test_settle_does_not_sleep_on_the_clean_path(slept: list[float]) -> None:
    """With nothing near, and only a far timer, settle never gives a delay."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        far = loop.call_later(30, print)
        loop.call_later(0.01, print).cancel()
        loop.call_soon(int)
        assert await settle()
        far.cancel()

    run(asyncio.SelectorEventLoop, main())
    assert set(slept) <= {0.0}


def test_settle_waits_for_a_timer_that_is_near() -> None:
    """A timer within the horizon has run when settle returns; one beyond it has not."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        fired: list[str] = []
        loop.call_later(0.01, fired.append, "near")
        far = loop.call_later(30, fired.append, "far")
        assert await settle(horizon=0.05)
        assert fired == ["near"]
        far.cancel()

    run(asyncio.SelectorEventLoop, main())


@LOOPS
def test_settle_waits_for_a_task_that_ends_by_itself(new_loop: Loops) -> None:
    """A task that ends 50 ms later is no leak; one that does not end is."""

    async def main() -> None:
        baseline = ledger.count
        task = asyncio.create_task(asyncio.sleep(0.05))
        assert await settle(until=lambda: ledger.count == baseline)
        assert task.done()
        leaked = asyncio.create_task(asyncio.Event().wait())
        assert not await settle(limit=0.02, until=lambda: ledger.count == baseline)
        leaked.cancel()
        assert await settle(until=lambda: ledger.count == baseline)

    with contextlib.closing(new_loop()) as loop, Ledger().watching(loop) as ledger:
        loop.run_until_complete(main())


@REAL
def test_settle_is_patient_with_another_thread(new_loop: Loops) -> None:
    """A result that a thread brings late is waited for with `until`."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        came: list[int] = []
        timer = threading.Timer(0.02, loop.call_soon_threadsafe, (came.append, 1))
        timer.start()
        assert await settle(until=lambda: bool(came))
        timer.join()

    run(new_loop, main())


def test_settle_sees_what_waits_in_the_selector() -> None:
    """Bytes that have arrived are read before settle returns, without `until`."""

    class Sink(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            got.append(data)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Sink, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
        transport.write(b"x")
        assert await settle()
        assert got == [b"x"]
        transport.close()
        server.close()
        assert await settle()

    got: list[bytes] = []
    run(asyncio.SelectorEventLoop, main())


@LOOPS
def test_settle_gives_up_at_its_limit(new_loop: Loops) -> None:
    """A program that never settles, or an end that never comes, costs the limit and no more."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert not await settle(limit=0.02, until=lambda: False)
        assert loop.time() - began > 0.018

    run(new_loop, main())


def test_settle_reports_a_heartbeat() -> None:
    """With a timer that is always near the loop is never quiescent."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        beats: list[asyncio.TimerHandle] = []

        def beat() -> None:
            beats.append(loop.call_later(0.002, beat))

        beat()
        assert not await settle(limit=0.02)
        beats[-1].cancel()
        assert await settle(limit=0.02)

    run(asyncio.SelectorEventLoop, main())


def test_settle_quiet_checks_twice() -> None:
    """With `quiet` a loop that is busy the second time is waited for again."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        events: list[str] = []
        loop.call_later(0.004, lambda: loop.call_later(0.001, events.append, "late"))
        assert await settle(quiet=0.004, horizon=0.003)
        assert events == ["late"]

    run(VirtualLoop, main())


def test_settle_on_virtual_time_takes_no_time() -> None:
    """On the virtual loop even a long horizon is jumped."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        client, server = asyncio.Protocol(), asyncio.Protocol()
        transport, _ = memory_pair(loop, client, server)
        loop.call_later(3600, transport.close)
        assert await settle(limit=7200, horizon=3600)
        assert transport.is_closing()
        assert loop.time() == 3600

    began = time.monotonic()
    run(VirtualLoop, main())
    assert time.monotonic() - began < 60


def test_settle_gives_up_early_when_nothing_can_arrive() -> None:
    """Without patience, a quiescent loop that nothing outside can reach is not waited for."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert not await settle(limit=60, until=lambda: False, patient=False)
        assert loop.time() == 0
        assert not await settle(limit=60, until=lambda: False)
        assert loop.time() == 60

    run(VirtualLoop, main())


def test_settle_waits_while_a_socket_may_bring_something() -> None:
    """Without patience too, a watched socket is a reason to wait."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        got: list[bytes] = []
        loop.add_reader(one, lambda: got.append(one.recv(1)))
        late = threading.Timer(0.02, other.send, (b"x",))
        late.start()
        assert await settle(until=lambda: bool(got), patient=False)
        loop.remove_reader(one)
        late.join()
        one.close()
        other.close()

    run(asyncio.SelectorEventLoop, main())


def test_settle_relies_on_members_that_exist() -> None:
    """The private members of the selector loop that settle reads exist."""
    with contextlib.closing(asyncio.SelectorEventLoop()) as loop:
        assert len(loop._ready) == 0  # type: ignore[attr-defined]
        assert loop._scheduled == []  # type: ignore[attr-defined]
        assert loop._selector.select(0) == []  # type: ignore[attr-defined]


class OwnQueue(asyncio.SelectorEventLoop):
    """Keeps callbacks and timers in lists of its own, as the loops of qasync and trio-asyncio do.

    The lists of its base class are of no use: they are never empty, and have no members.
    """

    class Unused:
        """Refuses whatever a list can do."""

    def __init__(self) -> None:
        super().__init__()
        self._ready: Any = self.Unused()
        self._scheduled: Any = self.Unused()
        self._selector.select = self.refused  # type: ignore[attr-defined]
        self._due: list[asyncio.Handle] = []
        self._later: list[asyncio.TimerHandle] = []

    @staticmethod
    def refused(_timeout: float | None = None) -> None:
        """Refuse a call."""
        raise NotImplementedError

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        """Put a callback in its own list."""
        self._due.append(asyncio.Handle(callback, args, self, context))
        return self._due[-1]

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        """Put a timer in its own list."""
        self._later.append(asyncio.TimerHandle(when, callback, args, self, context))
        return self._later[-1]

    def _timer_handle_cancelled(self, _handle: asyncio.TimerHandle) -> None:
        pass

    def _run_once(self) -> None:
        due, self._due = self._due, []
        while self._later and min(self._later).when() <= self.time():
            due.append(self._later.pop(self._later.index(min(self._later))))
        for handle in due:
            if not handle.cancelled():
                handle._run()


@pytest.mark.parametrize("leaks", [True, False])
def test_settle_asks_if_a_loop_uses_the_lists_of_asyncio(leaks: bool) -> None:  # noqa: FBT001
    """One that does not is settled as one that hides its state, without an error or a long wait."""
    began = time.monotonic()

    async def main() -> None:
        assert await settle(limit=30)
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, done.set_result, None)
        assert await settle(limit=30, until=done.done)
        if leaks:
            with pytest.raises(LeakError, match="1 task leaked"):
                async with no_leaks(budget=0.02):
                    task = asyncio.create_task(asyncio.Event().wait())
            assert task.done()
        else:
            async with no_leaks(budget=30):
                await asyncio.create_task(asyncio.sleep(0))

    loop = OwnQueue()
    try:
        loop.run_until_complete(main())
    finally:
        loop._ready, loop._scheduled = deque(), []
        loop.close()
    assert time.monotonic() - began < 20


def test_settle_sees_into_a_subclass_that_uses_the_lists_of_asyncio() -> None:
    """A long chain of callbacks is over: nothing is guessed."""

    class Subclass(asyncio.SelectorEventLoop):
        """Asks for nothing more."""

        def call_soon(self, *args: Any, **settings: Any) -> Any:  # type: ignore[override]
            """Pass a callback on."""
            return super().call_soon(*args, **settings)

    async def main() -> None:
        loop, left = asyncio.get_running_loop(), 100

        def again() -> None:
            nonlocal left
            left -= 1
            if left:
                loop.call_soon(again)

        loop.call_soon(again)
        assert await settle()
        assert left == 0

    run(Subclass, main())


def test_heartbeat_does_not_defeat_a_settle_without_renewed_timers() -> None:
    """Only the timers are waited for that are due within the horizon of the call."""

    async def main() -> None:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.01)
                beats += 1

        heart = asyncio.create_task(beat())
        await asyncio.sleep(0)
        assert not await settle(limit=0.1, horizon=0.02)
        before = beats
        assert await settle(limit=60, horizon=0.02, renewed=False)
        assert beats > before
        heart.cancel()

    run(asyncio.SelectorEventLoop, main())
