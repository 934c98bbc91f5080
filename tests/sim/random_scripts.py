"""Prints the trace hash of each of many random runs; run as a script, on any Python.

The scripts are the seeds: what tasks, timers, connections and datagrams a run has is drawn like
everything else.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from muxleak.sim import Network, current, simulate

if TYPE_CHECKING:
    from collections.abc import Callable

WHERE = ("127.0.0.1", 7000)
STEPS = 12
LONG = 4


class Echo(asyncio.DatagramProtocol):
    """Answers each short datagram by a longer one."""

    def connection_made(self, transport: Any) -> None:
        """Keep it."""
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Send it back, and one byte more."""
        if len(data) < LONG:
            self.transport.sendto(data + b"x", addr)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo lines, each in a task of its own, until the end or a reset."""
    try:
        while line := await reader.readline():
            await asyncio.gather(answer(writer, line), asyncio.sleep(0.001))
        writer.close()
        await writer.wait_closed()
    except ConnectionError:
        writer.close()


async def answer(writer: asyncio.StreamWriter, line: bytes) -> None:
    """Send one line back."""
    writer.write(line)
    await writer.drain()


async def client(size: int) -> None:
    """Send a line, take what comes, within a second."""
    writer = None
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(*WHERE)
            writer.write(bytes([65 + size]) * size + b"\n")
            await reader.readline()
    except (OSError, TimeoutError):
        pass
    finally:
        if writer is not None:
            writer.close()


async def work(seconds: float) -> None:
    """Take a while, with a child."""
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(seconds))
        await asyncio.sleep(seconds)


async def script() -> None:
    """A random life of a small server."""
    loop, choices = asyncio.get_running_loop(), current().choices
    server = await asyncio.start_server(serve, *WHERE)
    endpoint, _ = await loop.create_datagram_endpoint(Echo, local_addr=WHERE)
    tasks: list[asyncio.Task[None]] = []
    events: list[Callable[[], object]] = [
        lambda: tasks.append(asyncio.create_task(client(choices.below(40)))),
        lambda: tasks.append(asyncio.create_task(work(choices.below(8) / 4))),
        lambda: loop.call_later(choices.below(4) / 4, endpoint.sendto, b"x", WHERE),
        lambda: tasks and tasks[choices.below(len(tasks))].cancel(),
    ]
    for _ in range(STEPS):
        choices.pick(events)()
        await current().gap()
    await asyncio.wait([*tasks, asyncio.create_task(asyncio.sleep(2))])
    endpoint.close()
    server.close()


def hashes(count: int) -> list[str]:
    """The hash of the run of each seed below `count`."""
    network = Network(
        latency=(0.0, 0.3), faults=("reset", "stall", "half-close", "refuse"), drop=True
    )
    return [
        simulate(
            script,
            seed=seed,
            network=network,
            wakeups=bool(seed % 2),
            cancel=("work",),
        ).trace_hash
        for seed in range(count)
    ]


if __name__ == "__main__":
    print("\n".join(hashes(int(sys.argv[1]))))  # noqa: T201 - what the script is for
