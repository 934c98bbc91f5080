"""Limits of virtual time: a close, an operation and a program that take too long are findings."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from muxleak import LeakError
from muxleak.search import find_leaks
from muxleak.search.program import signature
from muxleak.sim import Network, TimeLimitError, current, replay, simulate
from muxleak.sim.settings import Settings

WHERE = ("127.0.0.1", 80)
Program = Callable[[], Coroutine[Any, Any, None]]


def lingering(seconds: float, *, clients: int = 1, idle: float = 0.0) -> Program:
    """Make a program whose server needs some seconds to end a connection whose client has left.

    Args:
        seconds: virtual seconds.
        clients: number of connections, one after the other.
        idle: virtual seconds for which each client stays connected and silent.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.sleep(seconds)
        writer.close()

    async def program() -> None:
        server = await asyncio.start_server(serve, *WHERE)
        for number in range(clients):
            current().step(f"client {number} visits")
            _, writer = await asyncio.open_connection(*WHERE)
            await asyncio.sleep(idle)
            writer.close()
        await asyncio.sleep(5000)
        server.close()

    return program


def test_close_that_takes_long_is_a_finding() -> None:
    """The message says how long, the limit, how to raise it, what was alive, and the steps."""
    with pytest.raises(TimeLimitError) as caught:
        simulate(lingering(600))

    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "close of connection 1 to 127.0.0.1:80 took 600 s, limit 60 s; shorten it, or raise the "
        "limit with @simulated(close_limit=600) if it is meant to take so long; alive after 60 s:"
    )
    assert lines[1] == "  1 x lingering.<locals>.serve"
    assert "waits in lingering.<locals>.serve (tests/sim/test_time_limits.py:" in lines[3]
    assert (caught.value.took, caught.value.limit) == (600.0, 60.0)
    assert caught.value.__notes__[-1] == "steps: client 0 visits"
    simulate(lingering(600), close_limit=600)
    simulate(lingering(600), close_limit=math.inf)
    simulate(lingering(600), leaks=False)


@pytest.mark.parametrize(("seconds", "idle"), [(0, 0), (60, 0), (0, 4000), (59, 4000)])
def test_close_within_its_limit_and_an_idle_connection_pass(seconds: float, idle: float) -> None:
    """A living connection may be idle for as long as it likes: that is no close."""
    assert simulate(lingering(seconds, idle=idle)).now >= 5000


def test_slowest_of_several_closes_is_named() -> None:
    """The others are counted."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(float(await reader.read()))
        writer.close()

    async def program() -> None:
        server = await asyncio.start_server(serve, *WHERE)
        for seconds in (70, 10, 500, 80):
            _, writer = await asyncio.open_connection(*WHERE)
            writer.write(str(seconds).encode())
            writer.close()
        await asyncio.sleep(1000)
        server.close()

    with pytest.raises(TimeLimitError, match=r"close of connection 3 .* took 500 s") as caught:
        simulate(program)
    assert "note: other closes that took longer than the limit: 2" in str(caught.value)


def test_many_closes_are_forgotten_when_they_have_ended() -> None:
    """The list of closes does not grow with the number of connections."""
    lengths: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def program() -> None:
        server = await asyncio.start_server(serve, *WHERE)
        for _ in range(600):
            _, writer = await asyncio.open_connection(*WHERE)
            writer.close()
            await current().settle()
            lengths.append(len(current().limits._closes))
        server.close()

    simulate(program)
    assert 100 < max(lengths) <= 258


def test_timer_of_a_closed_connection_belongs_to_its_close() -> None:
    """A keep-alive timer that fires long after the end is part of what the connection made."""

    class KeepAlive(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            asyncio.get_running_loop().call_later(75, transport.close)

    async def program() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(KeepAlive, *WHERE)
        _, writer = await asyncio.open_connection(*WHERE)
        writer.close()
        await asyncio.sleep(100)
        server.close()

    with pytest.raises(TimeLimitError, match=r"took 75 s[\s\S]*1 x timer: "):
        simulate(program)


def test_close_is_measured_from_the_first_end_that_is_lost() -> None:
    """Also where the server closes first, and its handler goes on."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await asyncio.sleep(100)

    async def program() -> None:
        server = await asyncio.start_server(serve, *WHERE)
        reader, writer = await asyncio.open_connection(*WHERE)
        await reader.read()
        await asyncio.sleep(20)
        writer.close()
        await asyncio.sleep(1000)
        server.close()

    with pytest.raises(TimeLimitError, match="took 100 s"):
        simulate(program)


@pytest.mark.parametrize(("stall", "slow"), [(500.0, 0.0), (500.0, 100.0)])
def test_stall_is_not_held_against_the_close(stall: float, slow: float) -> None:
    """A server that a fault keeps from hearing of the end is measured from when it hears."""

    async def program() -> None:
        loop = asyncio.get_running_loop()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            heard.append(loop.time())
            await asyncio.sleep(slow)
            writer.close()

        heard: list[float] = []
        server = await asyncio.start_server(serve, *WHERE)
        _, writer = await asyncio.open_connection(*WHERE)
        await current().settle()
        current().fault("stall", *WHERE, seconds=stall)
        writer.close()
        await asyncio.sleep(1000)
        assert heard == [stall]
        server.close()

    if not slow:
        simulate(program)
        return
    with pytest.raises(TimeLimitError, match="took 100 s"):
        simulate(program)


def test_close_that_never_ends_is_a_leak() -> None:
    """Of the two findings the leak is the one to repair."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await asyncio.Event().wait()

    async def program() -> None:
        server = await asyncio.start_server(serve, *WHERE)
        _, writer = await asyncio.open_connection(*WHERE)
        writer.close()
        await asyncio.sleep(1000)
        server.close()

    with pytest.raises(LeakError):
        simulate(program)
    simulate(program, leaks=False)


def test_operation_that_takes_long_is_a_finding() -> None:
    """The message shows where it waited when the limit was reached; shorter ones pass."""

    async def slow(seconds: float) -> None:
        async with current().operation("request 7"):
            await asyncio.sleep(seconds)

    with pytest.raises(TimeLimitError) as caught:
        simulate(lambda: slow(301))
    text = str(caught.value)
    assert text.startswith("operation request 7 took 301 s, limit 300 s; ")
    assert "@simulated(operation_limit=301)" in text
    assert "waits in test_operation_that_takes_long_is_a_finding.<locals>.slow (" in text
    simulate(lambda: slow(300))
    simulate(lambda: slow(301), operation_limit=301)


def test_operation_that_fails_has_no_other_finding() -> None:
    """Its own error passes, and it is not measured any more."""

    async def program() -> None:
        with suppress(LookupError):
            async with current().operation("request"):
                raise LookupError
        await asyncio.sleep(1000)

    assert simulate(program).now == 1000


def test_program_that_takes_long_is_a_finding() -> None:
    """It is stopped before it jumps beyond the limit, with its tasks."""

    async def program() -> None:
        await asyncio.sleep(40 * 86_400)

    with pytest.raises(
        TimeLimitError, match="program took 3,456,000 s, limit 2,592,000 s"
    ) as caught:
        simulate(program)
    assert "program (tests/sim/test_time_limits.py:" in str(caught.value)
    assert simulate(program, time_limit=math.inf).now == 40 * 86_400
    with pytest.raises(TimeLimitError, match="limit 10 s"):
        simulate(program, time_limit=10)


def test_limits_must_be_positive() -> None:
    """A limit of 0 would accuse every program."""
    with pytest.raises(ValueError, match="expected close_limit above 0, got 0"):
        Settings(close_limit=0)


def test_slow_close_is_found_shrunk_and_replayed() -> None:
    """A search stops at it like at any failure; the replay has the same trace and error."""

    async def program() -> None:
        seconds = 600 if current().choices.below(4) == 3 else 1
        await lingering(seconds)()

    found = find_leaks(program, network=Network(latency=(0.0, 0.1)))
    assert found is not None
    assert isinstance(found.error, TimeLimitError)
    again = replay(found.replay.line, program, network=Network(latency=(0.0, 0.1)))
    assert str(again.error) == str(found.error)
    assert again.trace_hash == found.replay.trace


def test_search_does_not_slip_from_one_limit_to_another() -> None:
    """A close and an operation that take too long are two failures."""
    errors: list[BaseException] = []
    for program in (lingering(600), operating):
        with pytest.raises(TimeLimitError) as caught:
            simulate(program)
        errors.append(caught.value)

    assert len({signature(error) for error in errors}) == 2


async def operating() -> None:
    """Take long in an operation."""
    async with current().operation("request"):
        await asyncio.sleep(600)
