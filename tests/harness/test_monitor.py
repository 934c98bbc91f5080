"""The monitor: counts by site, and when it raises an alarm and when it does not."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any
from uuid import UUID

import pytest

from creation_sites import site
from loops import REAL
from muxleak import Ledger, Monitor
from muxleak.monitor import KINDS, Alarm, service
from muxleak.monitor.site_counts import OTHER
from muxleak.sim import simulate
from muxleak.sim.virtual_loop import VirtualLoop
from muxleak_vless import Client, Inbound, Limits, MuxSession, Outbound, User
from muxleak_vless.versions import VERSIONS

USER = UUID("00112233-4455-6677-8899-aabbccddeeff")
WATCHER = site(MuxSession.run, "self._watch(")
LIMITS = Limits(close_seconds=1.0)
INTERVAL = 10.0


def simulated(main: Callable[[Monitor], Awaitable[object]], **settings: Any) -> list[Alarm]:
    """Run a service on virtual time under a monitor; return the alarms."""
    alarms: list[Alarm] = []

    async def run() -> None:
        with Monitor(on_alarm=alarms.append, interval=INTERVAL, **settings) as monitor:
            await main(monitor)

    simulate(run, leaks=False)
    return alarms


async def serve(version: str, intervals: int, load: Callable[[int], int] = lambda _: 3) -> None:
    """Serve so many mux connections, one after another, in each interval."""
    lifecycle = VERSIONS[version]()
    inbound = Inbound([User(USER)], Outbound(limits=LIMITS), lifecycle=lifecycle, limits=LIMITS)
    address = await inbound.listen()
    for index in range(intervals):
        for _ in range(load(index)):
            async with await Client.connect(address, USER):
                pass
        await asyncio.sleep(INTERVAL)
    await inbound.shutdown()


def test_monitor_alarms_for_the_watcher_and_for_nothing_else() -> None:
    """V1 leaves one task for every connection: 18 per minute."""
    (alarm,) = simulated(lambda _: serve("V1", 40))

    assert (alarm.site, alarm.recovered) == (WATCHER, False)
    assert alarm.slope == pytest.approx(18)
    assert str(alarm) == (
        f"{WATCHER}: 87 tasks without open connection, and climbing by 18 per minute"
        " (at least 18) for 4.83 min"
    )


@pytest.mark.parametrize("load", [lambda _: 3, lambda index: index // 4], ids=["even", "growing"])
def test_monitor_is_silent_about_the_fix(load: Callable[[int], int]) -> None:
    """The same connections, or more and more of them, leave nothing in the reference."""
    assert simulated(lambda _: serve("REF", 40, load)) == []


@pytest.mark.parametrize("seed", range(3))
def test_monitor_sees_the_leak_through_a_bursty_load(seed: int) -> None:
    """0 to 9 connections in an interval, by chance: the slope is about the mean."""
    random = Random(seed)
    (alarm,) = simulated(lambda _: serve("V1", 40, lambda _: random.randrange(10)))

    assert alarm.site == WATCHER
    assert alarm.lower < alarm.slope
    assert alarm.slope == pytest.approx(27, rel=0.4)


def test_monitor_is_silent_while_open_connections_explain_the_count() -> None:
    """One more connection stays open in every interval, with a task each; others come and go."""

    async def main(monitor: Monitor) -> None:
        inbound = Inbound([User(USER)], Outbound(limits=LIMITS), limits=LIMITS)
        address = await inbound.listen()
        clients = []
        for _ in range(40):
            clients.append(await Client.connect(address, USER))
            async with await Client.connect(address, USER):
                pass
            await asyncio.sleep(INTERVAL)
        (watchers,) = (each for each in monitor.sites() if each.site == WATCHER)
        assert (watchers.live, watchers.left) == (40, 0)
        assert (monitor.status().accepted, monitor.status().ended) == (80, 40)
        for client in clients:
            await client.close()
        await inbound.shutdown()

    # The clients' own tasks are as many, and belong to no accepted connection.
    assert [alarm.site for alarm in simulated(main)] == [site(Client.__init__, "create_task(")]


def test_monitor_is_silent_about_jobs_that_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks of no connection, a minute each: their number wanders, which has a slope at times."""

    async def main(_monitor: Monitor, *, random: Random) -> None:
        jobs = set()
        for _ in range(200):
            for _ in range(random.randrange(7)):
                jobs.add(asyncio.create_task(asyncio.sleep(random.expovariate(1 / 60))))
            await asyncio.sleep(INTERVAL)

    def alarms() -> list[Alarm]:
        runs = [partial(main, random=Random(seed)) for seed in range(3)]
        return [alarm for run in runs for alarm in simulated(run)]

    assert alarms() == []
    monkeypatch.setattr(service, "_DRIFT", 0.0)
    assert alarms() != []


def test_monitor_leaves_nothing_behind() -> None:
    """A simulation fails over any task, timer, transport or server that is left."""

    async def main() -> None:
        with Monitor() as monitor:
            await monitor.listen(port=6060)
            await serve("REF", 2)

    simulate(main)


def test_monitor_keeps_no_errors() -> None:
    """An error that reaches the loop's handler is logged there, and not kept."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        handled: list[str] = []
        loop.set_exception_handler(lambda _loop, context: handled.append(context["message"]))
        with Monitor(interval=None) as monitor:
            loop.call_exception_handler({"message": "something"})
            monitor.sample()
            assert monitor.ledger.errors == []
        assert handled == ["something"]

    asyncio.run(main())


def test_monitor_waits_for_connections_to_end() -> None:
    """Tasks that climb while no connection ends raise no alarm."""

    async def climb(monitor: Monitor, ends: int) -> list[Alarm]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 8000)
        address = server.sockets[0].getsockname()[:2]
        kept, raised = [], []
        for index in range(30):
            if index < ends:
                _, writer = await asyncio.open_connection(*address)
                writer.close()
                await writer.wait_closed()
            kept.append(asyncio.create_task(asyncio.Event().wait()))
            await asyncio.sleep(INTERVAL)
            raised += monitor.sample()
        server.close()
        for task in kept:
            task.cancel()
        return raised

    assert simulated(lambda monitor: climb(monitor, 1)) == []
    assert len(simulated(lambda monitor: climb(monitor, 30))) == 1


def test_monitor_reports_each_beginning_and_end_once(caplog: pytest.LogCaptureFixture) -> None:
    """A warning when it begins, an information when it ends, with the tasks that are still left."""

    async def main(_monitor: Monitor) -> None:
        await serve("V1", 60, lambda index: 3 if index < 40 else 0)

    with caplog.at_level(logging.INFO, "muxleak.monitor"):
        begun, over = simulated(main)

    assert (begun.recovered, over.recovered) == (False, True)
    assert (over.site, over.left) == (WATCHER, 120)
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("WARNING", str(begun)),
        ("INFO", f"{WATCHER}: no longer climbs; 120 tasks without open connection"),
    ]


def test_monitor_goes_on_when_its_callback_raises(caplog: pytest.LogCaptureFixture) -> None:
    """The error is logged, and the next alarm is passed on as well."""
    alarms = []

    def refuse(alarm: Alarm) -> None:
        alarms.append(alarm)
        raise ValueError("no pager")

    async def main() -> None:
        with Monitor(on_alarm=refuse):
            await serve("V1", 60, lambda index: 3 if index < 40 else 0)

    simulate(main, leaks=False)

    assert len(alarms) == 2
    assert sum("on_alarm raised" in each.getMessage() for each in caplog.records) == 2


async def spin(times: int = 5) -> None:
    """Let the loop turn."""
    for _ in range(times):
        await asyncio.sleep(0)


class Starting(asyncio.Protocol):
    """Starts a task that stays for each message, and answers with it.

    Args:
        tasks: the tasks.
        lost: set at the end of a connection.
    """

    transport: Any

    def __init__(self, tasks: list[asyncio.Task[object]], lost: asyncio.Event) -> None:
        self.tasks, self.lost = tasks, lost

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Start a task, and answer."""
        self.tasks.append(asyncio.create_task(asyncio.Event().wait()))
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Announce the end."""
        del exc
        self.lost.set()


class Upgrading(Starting):
    """Hands over to another protocol at the first message, as servers do for WebSocket."""

    def data_received(self, data: bytes) -> None:
        """Let another protocol answer, and the messages from now on."""
        following = Starting(self.tasks, self.lost)
        following.connection_made(self.transport)
        self.transport.set_protocol(following)
        self.transport.write(data)


class UpgradingAtOnce(Starting):
    """Hands over to another protocol as soon as it is connected, and that one once more."""

    def connection_made(self, transport: Any) -> None:
        """Let another protocol answer."""
        following = Upgrading(self.tasks, self.lost)
        following.connection_made(transport)
        transport.set_protocol(following)


@REAL
@pytest.mark.parametrize("protocol", [Starting, Upgrading, UpgradingAtOnce])
def test_monitor_knows_whose_callback_runs(
    new_loop: Callable[[], asyncio.AbstractEventLoop], protocol: type[Starting]
) -> None:
    """A task of an open connection is not taken for one of a later connection that has closed."""
    tasks: list[asyncio.Task[object]] = []
    lost = asyncio.Event()

    async def main() -> None:
        with Monitor(interval=None) as monitor:
            server = await asyncio.get_running_loop().create_server(
                lambda: protocol(tasks, lost), "127.0.0.1", 0
            )
            address = server.sockets[0].getsockname()
            pairs = [await asyncio.open_connection(*address) for _ in range(2)]
            for message in [b"x"] * (1 if protocol is Starting else 2):
                for reader, writer in reversed(pairs):
                    writer.write(message)
                    await reader.readexactly(1)
            pairs[1][1].close()
            await lost.wait()
            await spin()
            for _ in range(2):
                monitor.sample()
            counts.extend((each.live, each.left) for each in monitor.sites() if each.live)
            tasks[0].cancel()  # that of the connection that has closed
            await spin()
            monitor.sample()
            counts.extend((each.live, each.left) for each in monitor.sites() if each.live)
            pairs[0][1].close()
            server.close()
            tasks[1].cancel()
            await spin()

    # Compared at the end: a loop of uvloop's that is closed with open connections may hang.
    counts: list[tuple[int, int]] = []
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    assert counts == [(2, 1), (1, 0)]


@REAL
def test_monitor_knows_whose_connection_is_open(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Over real sockets: tasks that a handler starts belong to its connection until that ends."""
    watchers: list[asyncio.Task[object]] = []
    gone = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        watchers.append(asyncio.create_task(asyncio.Event().wait()))
        writer.write(b"!")
        await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        gone.set()

    async def main() -> None:
        with Monitor(interval=None) as monitor:
            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await reader.readexactly(1)
            monitor.sample()
            open_ = {each.site.rpartition(".")[2]: each for each in monitor.sites()}
            writer.close()
            await writer.wait_closed()
            await gone.wait()
            await spin()
            monitor.sample()
            grace = monitor.sites()[0].left
            monitor.sample()
            (site,) = (each for each in monitor.sites() if each.live)
            # The handler's own task, which asyncio made, has the line where it begins.
            assert {(each.live, each.left) for each in open_.values() if each.live} == {(1, 0)}
            assert "handle" in open_
            assert (grace, site.left, site.created, site.finished) == (0, 1, 1, 0)
            assert (monitor.status().accepted, monitor.status().ended) == (1, 1)
            server.close()
            watchers[0].cancel()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_monitor_counts_each_kind() -> None:
    """Tasks, finished or not, the service's timers, and its transports; not the monitor's own."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = asyncio.create_task(asyncio.Event().wait())
        with Monitor() as monitor:
            timer = loop.call_later(60, print)
            for _ in range(3):
                await asyncio.create_task(spin())
            kept = asyncio.create_task(asyncio.Event().wait())
            monitor.sample()
            found = monitor.status()
            timer.cancel()
            kept.cancel()
            await spin()
            monitor.sample()
            later = monitor.status()
        before.cancel()
        assert (found.tasks, found.created, found.finished, found.timers) == (1, 4, 3, 1)
        assert (later.tasks, later.finished, later.timers, later.transports) == (0, 4, 0, 0)

    asyncio.run(main())


def test_monitor_takes_a_ledger_and_leaves_it_installed() -> None:
    """Tasks that the ledger had before are adopted; a second monitor is refused."""

    async def main() -> None:
        ledger = Ledger(KINDS)
        with ledger.watching(asyncio.get_running_loop()):
            kept = asyncio.create_task(asyncio.Event().wait())
            with Monitor(ledger, interval=None) as monitor:
                assert monitor.status().tasks == 1
                with pytest.raises(RuntimeError, match="expected a ledger without a monitor"):
                    Monitor(ledger).install()
            kept.cancel()
            await spin()
            with monitor:
                assert monitor.status().tasks == 0
            asyncio.create_task(spin()).cancel()
            assert ledger.created == 2

    asyncio.run(main())


def test_monitor_begins_anew_when_it_is_installed_again(loop: VirtualLoop) -> None:
    """It counts what is there already; its window has no sample of before."""

    async def main() -> None:
        ledger = Ledger(KINDS)
        with ledger.watching(loop):
            timer = loop.call_later(60, print)
            monitor = Monitor(ledger)
            for _ in range(2):
                with monitor:
                    assert monitor.status().timers == 1
                    assert (len(monitor._times), len(monitor._ended)) == (1, 1)
                    await asyncio.sleep(2 * INTERVAL + 1)
                    assert len(monitor._times) == 3
            timer.cancel()

    loop.run_until_complete(main())
    assert loop.pending_timers == 0


def test_monitor_is_silent_below_its_threshold() -> None:
    """V1 leaves 18 tasks per minute."""
    assert simulated(lambda _: serve("V1", 40), threshold=19.0) == []
    assert len(simulated(lambda _: serve("V1", 40), threshold=17.0)) == 1


def test_monitor_must_be_installed_to_sample() -> None:
    """The message says so. The method has its earlier name, too."""
    for take in (Monitor().sample, Monitor().look):
        with pytest.raises(RuntimeError, match=r"call install\(\)"):
            take()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 8}, "window: expected at least 9, got 8"),
        ({"max_sites": 0}, "max_sites: expected at least 1, got 0"),
        ({"interval": 0}, "interval: expected a number above 0, got 0"),
        ({"threshold": -1.0}, "threshold: expected a number above 0, got -1.0"),
    ],
)
def test_monitor_refuses_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    """With what was expected and what came."""
    with pytest.raises(ValueError, match=message):
        Monitor(**settings)


def make_at(lines: int) -> list[Callable[[], asyncio.Task[None]]]:
    """Functions that make a task, each on a line of its own."""
    source = "async def nothing(): pass\n" + "\n".join(
        f"def make_{number}(): return create(nothing())" for number in range(lines)
    )
    names: dict[str, Any] = {"create": asyncio.create_task}
    exec(compile(source, "<many>", "exec"), names)  # noqa: S102 - our own text
    return [names[f"make_{number}"] for number in range(lines)]


@pytest.mark.parametrize(
    ("lines", "cap"),
    [(500, 16), pytest.param(100_000, 256, marks=pytest.mark.slow)],
)
def test_monitor_keeps_no_more_rows_than_it_may(lines: int, cap: int) -> None:
    """Later sites share one row; nothing is lost from the totals."""

    async def main() -> None:
        with Monitor(interval=None, max_sites=cap) as monitor:
            tasks = [make() for make in make_at(lines)]
            monitor.sample()
            sites = monitor.sites()
            assert len(sites) == cap + 1
            assert sites[0][:4] == (OTHER, lines - cap, lines - cap, lines - cap)
            assert len(monitor._counts._keys) <= 16 * cap
            await asyncio.gather(*tasks)
            monitor.sample()
            assert {site.live for site in monitor.sites()} == {0}
            assert monitor.status()[:3] == (0, lines, lines)

    asyncio.run(main())


def test_monitor_keeps_no_more_samples_than_its_window() -> None:
    """However long it runs; and forgets connections that are over."""

    async def main(monitor: Monitor) -> None:
        await serve("REF", 40, lambda index: 3 if index < 38 else 0)
        counts = monitor._counts
        assert {len(row.samples) for row in counts.all_rows()} == {9}
        assert (len(monitor._times), len(monitor._ended)) == (9, 9)
        assert (len(counts._open), len(counts._ending)) == (0, 0)

    simulated(main, window=9)


@REAL
@pytest.mark.usefixtures("no_chance")
@pytest.mark.parametrize("sampled", [True, False])
def test_monitor_counts_tasks_that_a_collection_destroys(
    new_loop: Callable[[], asyncio.AbstractEventLoop], *, sampled: bool
) -> None:
    """It holds none of them; they count as finished and destroyed, by the line that made them."""

    async def lost() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        with Monitor(interval=None) as monitor:
            for _ in range(3):
                task = asyncio.create_task(lost())
            await asyncio.sleep(0)
            del task
            if sampled:
                monitor.sample()
                assert monitor.status().tasks == 3
            gc.collect()
            monitor.sample()
            status, (row,) = monitor.status(), monitor.sites()
            assert (status.tasks, status.finished, status.destroyed) == (0, 3, 3)
            assert (row.live, row.created, row.destroyed) == (0, 3, 3)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
