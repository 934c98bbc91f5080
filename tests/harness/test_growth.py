"""Growth: objects that accumulate are named, objects that are created once are not."""

import asyncio
import contextlib
import gc
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from itertools import accumulate
from random import Random
from typing import Any

import pytest

from loops import LOOPS, REAL
from muxleak import (
    GrowthReport,
    LeakError,
    Ledger,
    Monitor,
    ignore_name,
    measure_growth,
    no_leaks,
)
from muxleak.checks.growth_rule import grows
from muxleak.ledger.kinds import KINDS

pytestmark = pytest.mark.usefixtures("small_heap")

Loops = Callable[[], asyncio.AbstractEventLoop]
Outer = Callable[[], AbstractContextManager[object]]

OUTER = [
    pytest.param(lambda: Ledger().watching(asyncio.get_running_loop()), id="tasks"),
    pytest.param(lambda: Ledger(KINDS).watching(asyncio.get_running_loop()), id="all kinds"),
    pytest.param(lambda: Monitor(interval=None), id="monitor"),
]


def grown(
    operation: Callable[[], Awaitable[Any]],
    new_loop: Loops = asyncio.SelectorEventLoop,
    **settings: Any,
) -> GrowthReport:
    """Measure an operation on a fresh loop."""

    async def main() -> GrowthReport:
        return await measure_growth(operation, **{"budget": 0.05, **settings})

    with contextlib.closing(new_loop()) as loop:
        return loop.run_until_complete(main())


def kinds(report: GrowthReport) -> list[str]:
    """Return the kinds that grew."""
    return [growth.kind for growth in report.growing]


async def forever() -> None:
    """Wait for nothing."""
    await asyncio.Event().wait()


@LOOPS
def test_growth_names_what_every_repetition_adds(new_loop: Loops) -> None:
    """Counts, slope, site and diagnosis; and the leaks are ended."""

    async def operation() -> None:
        tasks.append(asyncio.create_task(forever()))

    tasks: list[asyncio.Task[None]] = []
    report = grown(operation, new_loop)

    (growth,) = report.growing
    assert (growth.kind, growth.name, growth.slope) == ("task", "forever", 1)
    assert growth.counts == (1, 2, 3, 4, 5, 6)
    assert growth.site.startswith("tests/harness/test_growth.py:")
    lines = str(report).splitlines()
    assert lines[0] == "still growing after 6 repetitions: +1 task"
    assert "    alive after each repetition: 1, 2, 3, 4, 5, 6" in lines
    assert "    nothing alive can wake it" in lines
    assert all(task.cancelled() for task in tasks)


@LOOPS
def test_growth_is_none_once_released(new_loop: Loops) -> None:
    """The same operation does not grow if it ends its task."""

    async def operation() -> None:
        task = asyncio.create_task(forever())
        timer = asyncio.get_running_loop().call_later(60, print)
        await asyncio.sleep(0)
        task.cancel()
        timer.cancel()

    report = grown(operation, new_loop)
    assert not report
    assert str(report) == "nothing grows"


def test_growth_leaves_singletons_pools_and_services_alone() -> None:
    """A cache made once, a pool that fills up, and tasks from before are no leaks."""

    async def operation() -> None:
        if "client" not in cache:
            cache["client"] = asyncio.create_task(forever())
        if len(pool) < 3:
            pool.append(asyncio.create_task(forever()))

    async def main() -> None:
        before = [asyncio.create_task(forever()) for _ in range(3)]
        assert not await measure_growth(operation)
        for task in (*before, *pool, *cache.values()):
            assert not task.done()
            task.cancel()

    cache: dict[str, asyncio.Task[None]] = {}
    pool: list[asyncio.Task[None]] = []
    asyncio.run(main())


def test_growth_waits_for_what_ends_late() -> None:
    """Tasks that end by themselves after the last repetition are no growth."""

    async def operation() -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(0.03)))

    async def main() -> None:
        assert not await measure_growth(operation, kinds=["task"])

    tasks: list[asyncio.Task[None]] = []
    asyncio.run(main())
    assert all(task.done() for task in tasks)


def test_growth_of_a_leak_at_the_third_time() -> None:
    """A leak that begins after a few repetitions is found too."""

    async def operation() -> None:
        runs.append(None)
        if len(runs) > 2:
            tasks.append(asyncio.create_task(forever()))

    runs: list[None] = []
    tasks: list[asyncio.Task[None]] = []
    (growth,) = grown(operation).growing
    assert growth.counts == (0, 0, 1, 2, 3, 4)


def every(n: int, first: int) -> Callable[[int], list[int]]:
    """Return counts of a leak of each n-th repetition; `first` repetitions are past."""
    return lambda length: [number // n for number in range(first, first + length)]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_growth_of_each_nth_repetition_is_found_by_more_repetitions(n: int) -> None:
    """From eight times n on, wherever the count begins."""
    for length in range(max(8 * n, 4), 20 * n):
        for first in range(n):
            counts = every(n, first)(length)
            assert grows(counts), (length, first)
            assert grows([9 + count for count in counts]), (length, first)


@pytest.mark.parametrize("n", [2, 3])
def test_growth_of_each_nth_repetition_is_found_after_a_pool_has_filled(n: int) -> None:
    """Both at one place."""
    filled = [min(number, 3) for number in range(60)]
    assert grows([a + b for a, b in zip(filled, every(n, 0)(60), strict=True)])


def random_keys(keys: int, random: Random) -> list[int]:
    """Return the entries of a cache after each of sixty uses with a random key."""
    drawn = [random.randrange(keys) for _ in range(60)]
    return [len(set(drawn[: number + 1])) for number in range(60)]


def lazy_workers(most: int, random: Random) -> list[int]:
    """Return the threads of an executor that starts one more when it happens to be busy."""
    return list(accumulate(range(60), lambda n, _: n + (n < most and random.random() < 0.15)))


@pytest.mark.parametrize(("length", "most"), [(8, 3.0), (12, 2.0), (20, 1.0)])
def test_growth_seldom_accuses_an_executor_in_few_repetitions(length: int, most: float) -> None:
    """Per cent of 1,000 executors; a rule that is content with fewer rises accuses 5 and more."""
    accused = sum(grows(lazy_workers(6, Random(seed))[:length]) for seed in range(1_000))

    assert accused <= 10 * most


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param(lambda _: [min(n // 2, 13) for n in range(60)], id="slow pool"),
        pytest.param(lambda _: [min(n // 3, 15) for n in range(60)], id="slower pool"),
        pytest.param(lambda _: [min(n, 40) for n in range(60)], id="pool"),
        pytest.param(lambda _: [(n > 40) + (n > 50) for n in range(60)], id="two late ones"),
        pytest.param(lambda _: [n % 8 for n in range(60)], id="cleared table"),
        pytest.param(lambda _: [n.bit_length() for n in range(60)], id="amortised table"),
        pytest.param(lambda r: random_keys(20, r), id="cache"),
        pytest.param(lambda r: lazy_workers(6, r), id="executor"),
        pytest.param(lambda r: [4 + r.choice([0, 0, 1, 2]) for _ in range(60)], id="jitter"),
        pytest.param(lambda _: [2 - (n == 30) for n in range(60)], id="one that ended"),
    ],
)
def test_growth_leaves_alone(counts: Callable[[Random], list[int]]) -> None:
    """Counts that fill up, are cleared, or go up and down."""
    assert not [seed for seed in range(100) if grows(counts(Random(seed)))]


@pytest.mark.parametrize(("n", "repetitions"), [(2, 16), (2, 20), (3, 24)])
def test_growth_of_a_leak_of_each_nth_repetition(n: int, repetitions: int) -> None:
    """A task and an entry of a table, though no repetition but each second or third leaks."""

    async def operation() -> None:
        runs.append(None)
        if len(runs) % n == 0:
            tasks.append(asyncio.create_task(forever()))

    runs: list[None] = []
    tasks: list[asyncio.Task[None]] = []
    report = grown(operation, repetitions=repetitions, kinds=["task", "object"])
    assert kinds(report) == ["task", "object", "object"]
    assert report.growing[0].counts[-1] == repetitions // n


def test_growth_outside_every_scope_counts() -> None:
    """Tasks that the operation makes an existing server leak are reported."""

    async def serve(requests: "asyncio.Queue[None]") -> None:
        while True:
            await requests.get()
            tasks.append(asyncio.create_task(forever()))

    async def main() -> None:
        requests: asyncio.Queue[None] = asyncio.Queue()
        server = asyncio.create_task(serve(requests))

        async def operation() -> None:
            await requests.put(None)

        report = await measure_growth(operation, budget=0.05)
        assert kinds(report) == ["task"]
        server.cancel()

    tasks: list[asyncio.Task[None]] = []
    asyncio.run(main())


def test_growth_is_not_charged_to_a_block_beside_it() -> None:
    """Two measurements and a check at once keep apart, each with its own verdict."""

    async def leaky() -> None:
        tasks.append(asyncio.create_task(forever()))
        await asyncio.sleep(0.001)

    async def clean() -> None:
        await asyncio.create_task(asyncio.sleep(0.001))

    async def block() -> None:
        async with no_leaks():
            await asyncio.sleep(0.01)

    async def main() -> None:
        reports = await asyncio.gather(
            measure_growth(leaky, budget=0.05), measure_growth(clean, budget=0.05), block()
        )
        assert [bool(report) for report in reports[:2]] == [True, False]

    tasks: list[asyncio.Task[None]] = []
    asyncio.run(main())


def test_growth_of_finished_tasks_that_are_kept() -> None:
    """Retained tasks grow, dropped ones do not, and garbage is no leak."""

    async def nothing() -> None:
        pass

    async def keep() -> None:
        kept.append(asyncio.create_task(nothing()))
        await kept[-1]

    async def drop() -> None:
        cycle: list[Any] = [asyncio.create_task(nothing())]
        cycle.append(cycle)
        await cycle[0]

    kept: list[asyncio.Task[None]] = []
    report = grown(keep)
    assert [(each.kind, each.slope) for each in report.growing] == [("retained", 1)]
    assert not grown(drop)
    assert not grown(keep, kinds=["task"])


@LOOPS
@pytest.mark.parametrize("outer", OUTER)
def test_growth_of_finished_tasks_beside_another_ledger(new_loop: Loops, outer: Outer) -> None:
    """A task that only another ledger holds is not retained; one in a list is."""

    async def drop() -> None:
        cycle: list[Any] = [asyncio.create_task(asyncio.sleep(0))]
        cycle.append(cycle)
        await cycle[0]

    async def keep() -> None:
        kept.append(asyncio.create_task(asyncio.sleep(0)))
        await kept[-1]

    async def main() -> None:
        with outer():
            assert not await measure_growth(drop, budget=0.05)
            assert kinds(await measure_growth(keep, budget=0.05)) == ["retained"]

    kept: list[asyncio.Task[None]] = []
    with contextlib.closing(new_loop()) as loop:
        loop.run_until_complete(main())


def test_growth_of_finished_tasks_in_a_function_under_check() -> None:
    """A check of the whole function, which runs the loop, is another ledger too."""

    async def drop() -> None:
        await asyncio.create_task(asyncio.sleep(0))

    @no_leaks
    def program() -> GrowthReport:
        return grown(drop)

    assert not program()


@pytest.mark.parametrize("outer", OUTER)
def test_growth_of_callbacks_leaves_out_those_of_ledgers(outer: Outer) -> None:
    """Two ledgers have a callback each on a task that is made anew in every repetition."""

    async def replace() -> None:
        for task in tasks:
            task.cancel()
        tasks[:] = [asyncio.create_task(forever())]

    async def main() -> None:
        with outer():
            assert not await measure_growth(replace, repetitions=4, budget=0.05)

    tasks: list[asyncio.Task[None]] = []
    asyncio.run(main())


def test_growth_of_callbacks_on_one_future() -> None:
    """Callbacks that accumulate on one future grow; one on each of many futures does not."""

    async def add() -> None:
        shared[0].add_done_callback(print)

    async def main() -> None:
        shared.append(asyncio.get_running_loop().create_future())
        report = await measure_growth(add, budget=0.05)
        (growth,) = report.growing
        assert (growth.kind, growth.name, growth.counts, growth.slope) == (
            *("callback", "print"),
            *((3, 6), 1),
        )
        waiters = [asyncio.create_task(wait()) for _ in range(3)]
        assert not await measure_growth(remove, budget=0.05)
        for waiter in waiters:
            waiter.cancel()

    async def wait() -> None:
        await shared[0]

    async def remove() -> None:
        shared[0].add_done_callback(repr)
        shared[0].remove_done_callback(repr)

    shared: list[asyncio.Future[None]] = []
    asyncio.run(main())


def test_growth_of_generators_and_timers() -> None:
    """Other kinds grow alike, and are closed and cancelled afterwards."""

    async def stream() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def operation() -> None:
        streams.append(stream())
        await anext(streams[-1])
        timers.append(asyncio.get_running_loop().call_later(60, print))

    streams: list[Any] = []
    timers: list[asyncio.TimerHandle] = []
    assert sorted(kinds(grown(operation))) == ["generator", "timer"]
    assert all(each.ag_frame is None for each in streams)
    assert all(each.cancelled() for each in timers)


def test_growth_can_be_ignored_and_restricted() -> None:
    """Ignore values and kinds hold for growth as well."""

    async def operation() -> None:
        tasks.append(asyncio.create_task(forever()))

    tasks: list[asyncio.Task[None]] = []
    assert not grown(operation, kinds=["timer"])
    assert not grown(operation, ignore=ignore_name("forever", reason="a test"))
    assert grown(operation)
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_growth_refuses_too_few_repetitions() -> None:
    """Three repetitions have a second half of one step, which shows nothing."""

    async def operation() -> None:
        pass

    with pytest.raises(ValueError, match="expected at least 4 repetitions, got 3"):
        grown(operation, repetitions=3)


def test_growth_passes_the_operations_exception() -> None:
    """An operation that fails ends the measurement with its own error."""

    async def operation() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        grown(operation)


def test_no_leaks_repeats_with_arguments_and_result() -> None:
    """The decorator runs the function that many times, and returns the last result."""

    @no_leaks(repeat=5, budget=0.05)
    async def counted(start: int) -> int:
        calls.append(start)
        return len(calls)

    @no_leaks(repeat=4, budget=0.05)
    async def leaky() -> None:
        tasks.append(asyncio.create_task(forever()))

    calls: list[int] = []
    tasks: list[asyncio.Task[None]] = []
    assert asyncio.run(counted(7)) == 5
    assert calls == [7] * 5
    with pytest.raises(LeakError, match="still growing after 4 repetitions"):
        asyncio.run(leaky())


def test_growth_leaves_nothing_behind() -> None:
    """After a measurement the loop is as it was, and the ledger is gone."""

    async def operation() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = dict(vars(loop))
        await measure_growth(operation)
        assert vars(loop).keys() == before.keys()
        assert loop.get_task_factory() is None
        assert loop.get_exception_handler() is None

    asyncio.run(main())
    gc.collect()


class Keeping(asyncio.Protocol):
    """Keeps its connection open when the client ends its half."""

    def __init__(self, kept: list[asyncio.BaseTransport], keeps: Callable[[], bool]) -> None:
        self.kept, self.keeps = kept, keeps

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hold the transport."""
        self.kept.append(transport)

    def eof_received(self) -> bool:
        """Keep the own half open, or not."""
        return self.keeps()


@REAL
@pytest.mark.parametrize("keeps", [True, False])
def test_transports_accepted_by_an_earlier_server_count(new_loop: Loops, *, keeps: bool) -> None:
    """A server that was made before the measurement keeps one transport for each connection."""
    kept: list[Any] = []

    async def main() -> GrowthReport:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Keeping(kept, lambda: keeps), "127.0.0.1", 0)

        async def operation() -> None:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.close()
            await writer.wait_closed()

        report = await measure_growth(operation, budget=0.05)
        server.close()
        for each in kept:
            each.abort()
        return report

    with asyncio.Runner(loop_factory=new_loop) as runner:
        report = runner.run(main())
    assert kinds(report) == (["transport"] if keeps else [])
    assert not keeps or report.growing[0].counts[-1] == 6


@pytest.mark.parametrize("watched", [True, False])
def test_connections_of_an_earlier_server_have_a_site(watched: bool) -> None:  # noqa: FBT001
    """The line of the server, if some ledger saw that; else the handler's first line."""
    kept: list[asyncio.StreamWriter] = []

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept.append(writer)

    async def main() -> GrowthReport:
        loop = asyncio.get_running_loop()
        with Ledger(KINDS).watching(loop) if watched else contextlib.nullcontext():
            server = await asyncio.start_server(serve, "127.0.0.1", 0)

        async def operation() -> None:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.close()
            await writer.wait_closed()

        report = await measure_growth(operation, kinds=["transport"], budget=0.05)
        server.close()
        for each in kept:
            each.transport.abort()
        return report

    (growth,) = asyncio.run(main()).growing
    line = (main if watched else serve).__code__.co_firstlineno + (3 if watched else 0)
    assert growth.site.startswith(f"tests/harness/test_growth.py:{line} in ")


def test_asyncio_makes_transports_by_two_methods() -> None:
    """The private methods that record the connections of an earlier server; pinned here."""
    for name in ("_make_socket_transport", "_make_ssl_transport"):
        settings = inspect.signature(getattr(asyncio.SelectorEventLoop, name)).parameters
        assert list(settings)[1:3] in (["sock", "protocol"], ["rawsock", "protocol"])
        assert settings["server"].kind is inspect.Parameter.KEYWORD_ONLY
