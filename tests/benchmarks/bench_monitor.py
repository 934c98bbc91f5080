"""Cost of a monitor for an echo server: CPU time with it, over CPU time without.

Run ``python tests/benchmarks/bench_monitor.py``. Server and clients share one process and one loop,
and the monitor counts the tasks of both. With clients in a process of their own, the number of
events that the server finds in one iteration, and so its CPU time, would depend on the load of the
machine. Variants run in turns; each ratio is the median of the ratios of single rounds. Ratios can
be compared between runs, the figures cannot.
"""

# ruff: noqa: T201 - a benchmark prints

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from statistics import median
from typing import Any

from muxleak import Monitor
from muxleak_scenarios.bench.measure import BenchPlan, in_turns

PLAN = BenchPlan(rounds=15)
REQUESTS = 10_000
CONNECTIONS = 1_000
OPEN = 10
INTERVAL = 0.1  # seconds: a hundred times as many samples as in a service
GOAL = 0.05
LEFT = 100_000
SITES = 256

Address = tuple[str, int]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection."""
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def ask(address: Address, requests: int) -> None:
    """Make requests on one connection."""
    reader, writer = await asyncio.open_connection(*address)
    for _ in range(requests):
        writer.write(b"hello\n")
        await reader.readline()
    writer.close()
    await writer.wait_closed()


async def requests(address: Address) -> None:
    """Make many requests on few connections."""
    await asyncio.gather(*(ask(address, REQUESTS // OPEN) for _ in range(OPEN)))


async def connections(address: Address) -> None:
    """Make a connection for every request, ten at a time."""
    for _ in range(CONNECTIONS // OPEN):
        await asyncio.gather(*(ask(address, 1) for _ in range(OPEN)))


def measure(load: Callable[[Address], Awaitable[None]], *, monitored: bool) -> float:
    """Serve a load on a new loop; return the seconds of CPU for it."""

    async def main() -> float:
        with ExitStack() as stack:
            if monitored:
                stack.enter_context(Monitor(interval=INTERVAL))
            server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=OPEN)
            began = time.process_time()
            await load(server.sockets[0].getsockname())
            spent = time.process_time() - began
            server.close()
            return spent

    return asyncio.run(main())


def overheads() -> None:
    """Print the ratio of the same load with a monitor and without."""
    for load, number in ((requests, REQUESTS), (connections, CONNECTIONS)):
        found = in_turns(
            {
                "bare": lambda load=load: measure(load, monitored=False),  # type: ignore[misc]
                "monitored": lambda load=load: measure(load, monitored=True),  # type: ignore[misc]
            },
            PLAN,
        )
        pairs = zip(found["monitored"], found["bare"], strict=True)
        ratio = median(ours / theirs for ours, theirs in pairs)
        each = median(found["bare"]) / number * 1e6
        verdict = "met" if ratio <= 1 + GOAL else "missed"
        print(
            f"{number:6,} {load.__name__:12} {each:7.1f} us each  {ratio:6.3f}x with the monitor"
            f"  (goal <= {1 + GOAL}x: {verdict})"
        )


def one_sample() -> None:
    """Print the cost of a sample with many tasks left, and with the most sites allowed."""

    async def main() -> None:
        with Monitor(interval=None) as monitor:
            left = [asyncio.create_task(asyncio.Event().wait()) for _ in range(LEFT)]
            await asyncio.sleep(0)
            monitor.sample()
            print(f"a sample, {LEFT:,} tasks left: {_time(monitor.look) * 1e6:.0f} us")
            print(f"/debug/tasks, as many: {_time(monitor.profile) * 1e3:.0f} ms")
            for task in left:
                task.cancel()
        with Monitor(interval=None, max_sites=SITES) as monitor:
            source = "\n".join(f"def make_{n}(): return create(wait())" for n in range(SITES))
            names: dict[str, Any] = {"create": asyncio.create_task, "wait": _forever}
            exec(source, names)  # noqa: S102 - our own text
            left = []
            for _ in range(30):
                left += [names[f"make_{n}"]() for n in range(SITES)]
                monitor.sample()
            print(f"a sample, {SITES} sites that all grow: {_time(monitor.look) * 1e3:.1f} ms")
            for task in left:
                task.cancel()

    asyncio.run(main())


async def _forever() -> None:
    await asyncio.Event().wait()


def _time(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    logging.getLogger("muxleak").addHandler(logging.NullHandler())
    print(f"Python {sys.version.split()[0]}, a sample every {INTERVAL} s")
    overheads()
    one_sample()
