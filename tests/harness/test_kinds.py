"""Every kind of resource: recorded where it is made, charged to its scope, gone once it ended."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from loops import LOOPS, REAL
from muxleak.checks.settle import settle
from muxleak.ledger.counters import CURRENT, Scope
from muxleak.ledger.kinds import KINDS, valid_kinds
from muxleak.ledger.ledger import Ledger
from muxleak.sim.virtual_loop import VirtualLoop
from seconds import rounded
from tasks import forever

Loops = Callable[[], asyncio.AbstractEventLoop]
Body = Callable[[Ledger, Scope], Awaitable[None]]


def run(new_loop: Loops, body: Body) -> Ledger:
    """Run `body` in a scope of a ledger of every kind."""

    async def main() -> None:
        with ledger.scope("one") as scope:
            await body(ledger, scope)

    loop = new_loop()
    with contextlib.closing(loop), Ledger(KINDS).watching(loop) as ledger:
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_asyncgens())
    return ledger


def seen(scope: Scope) -> list[tuple[str, str]]:
    """Return kind and function of everything alive in `scope`."""
    places = [(record.kind, str(record.site)) for record in scope.everything()]
    assert all(place.startswith("tests/harness/test_kinds.py:") for _, place in places)
    return [(kind, place.rpartition(".")[2]) for kind, place in places]


async def iterations(count: int = 3) -> None:
    """Let the loop iterate."""
    for _ in range(count):
        await asyncio.sleep(0)


@LOOPS
def test_timer_is_seen_until_cancelled_or_due(new_loop: Loops) -> None:
    """call_later and call_at are seen; a timer that has fired or was cancelled is gone."""

    async def body(_ledger: Ledger, scope: Scope) -> None:
        loop = asyncio.get_running_loop()
        late = loop.call_later(60, print)
        later = loop.call_at(loop.time() + 60, print)
        loop.call_later(0.001, int)
        assert seen(scope)[:2] == [("timer", "body")] * 2
        timer: Any = scope.everything()[0]
        assert (timer.name, rounded(timer.state())) == ("print", "is due in 60 s")
        await asyncio.sleep(0.005)
        late.cancel()
        assert seen(scope) == [("timer", "body")]
        later.cancel()
        assert scope.clean

    run(new_loop, body)


@LOOPS
def test_timer_of_a_sleep_or_timeout_belongs_to_its_task(new_loop: Loops) -> None:
    """Timers that asyncio sets for a task are not counted beside the task."""

    async def wait() -> None:
        async with asyncio.timeout(60):
            await asyncio.wait_for(asyncio.sleep(60), 60)

    async def body(_ledger: Ledger, scope: Scope) -> None:
        task = asyncio.create_task(wait())
        await iterations()
        assert {record.kind for record in scope.everything()} == {"task"}
        task.cancel()
        await iterations(6)
        assert scope.clean

    run(new_loop, body)


@REAL
def test_transports_and_servers_are_seen_until_closed(new_loop: Loops) -> None:
    """Client, accepted connection, datagram endpoint and server; each with its line."""

    async def body(_ledger: Ledger, scope: Scope) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Kept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
        udp, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        await asyncio.sleep(0.02)
        assert sorted(seen(scope)) == [("server", "body")] + [("transport", "body")] * 3
        states = sorted(record.state() for record in scope.everything())
        assert states[-1].startswith("listens on ('127.0.0.1',")
        client.close()
        udp.close()
        server.close()
        await asyncio.sleep(0.02)
        assert scope.clean

    class Kept(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transports.append(transport)

    transports: list[asyncio.BaseTransport] = []
    assert run(new_loop, body).unseen == ()
    assert len(transports) == 1


@REAL
def test_protocol_whose_objects_take_no_attribute(new_loop: Loops) -> None:
    """Its accepted connection is seen on asyncio's loops; on others `unseen` names it."""

    class Slotted(asyncio.BaseProtocol):
        __slots__ = ()

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            kept.append(transport)

        def data_received(self, data: bytes) -> None:
            raise AssertionError(data)

        def eof_received(self) -> None:
            pass

    kept: list[asyncio.BaseTransport] = []
    seen: list[list[str]] = []

    async def body(ledger: Ledger, _scope: Scope) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Slotted, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        for _ in range(2):
            client, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
            await asyncio.sleep(0.01)
            names = [each.name for each in ledger.everything() if "accepted" in each.name]
            seen.append(names)
            client.close()
            await asyncio.sleep(0.01)
        server.close()
        await asyncio.sleep(0.02)
        if isinstance(loop, asyncio.BaseEventLoop):
            name = f"accepted connection of {Slotted.__qualname__}"
            assert (ledger.unseen, seen) == ((), [[name], [name]])
        else:
            (unseen,) = ledger.unseen
            assert unseen.endswith("Slotted, whose objects take no attribute")
            assert seen == [[], []]

    run(new_loop, body)


def test_unseen_names_a_task_factory_put_over_ours() -> None:
    """A factory put there past the loop hides tasks; the former name of `unseen` works."""

    async def body(ledger: Ledger, _scope: Scope) -> None:
        asyncio.SelectorEventLoop.set_task_factory(asyncio.get_running_loop(), None)  # type: ignore[arg-type]
        assert ledger.unseen == ("tasks made since another task factory was installed",)
        assert ledger.blind == ledger.unseen

    run(asyncio.SelectorEventLoop, body)


@REAL
def test_reader_is_seen_until_removed(new_loop: Loops) -> None:
    """add_reader and add_writer are seen, each until its removal."""

    async def body(_ledger: Ledger, scope: Scope) -> None:
        loop = asyncio.get_running_loop()
        pair = socket.socketpair()
        loop.add_reader(pair[0], print)
        loop.add_reader(pair[0], dict)
        loop.add_writer(pair[1].fileno(), int)
        assert seen(scope) == [("reader", "body")] * 2
        assert [record.name for record in scope.everything()] == ["dict", "int"]
        loop.remove_reader(pair[0])
        loop.remove_writer(pair[1])
        assert scope.clean
        for end in pair:
            end.close()

    run(new_loop, body)


async def count(upto: int) -> AsyncIterator[int]:
    """Yield, and await in between."""
    for number in range(upto):
        yield number
        await asyncio.sleep(0)


@LOOPS
def test_generator_is_seen_until_closed_finished_or_dropped(new_loop: Loops) -> None:
    """Started and kept is a leak; closed, exhausted or no longer referenced is none."""

    async def body(_ledger: Ledger, scope: Scope) -> None:
        closed: Any = count(5)
        await anext(closed)
        finished: Any = count(1)
        await anext(finished)
        dropped: Any = count(5)
        await anext(dropped)
        assert seen(scope) == [("generator", "body")] * 3
        assert scope.everything()[0].state().startswith("is suspended in count (tests/harness/")
        await closed.aclose()
        assert await anext(finished, None) is None
        del dropped
        gc.collect()
        await iterations()
        assert scope.clean

    run(new_loop, body)


@REAL
def test_job_is_seen_until_it_returns(new_loop: Loops) -> None:
    """A function in an executor is seen while it runs; the loop's own pool is not."""

    async def body(_ledger: Ledger, scope: Scope) -> None:
        go = threading.Event()
        job = asyncio.get_running_loop().run_in_executor(None, go.wait)
        assert seen(scope) == [("job", "body")]
        assert scope.everything()[0].name == "Event.wait"
        go.set()
        await job
        other = asyncio.create_task(asyncio.to_thread(go.wait))
        await asyncio.sleep(0)
        await other
        await iterations()
        assert scope.clean
        await asyncio.get_running_loop().shutdown_default_executor()

    run(new_loop, body)


@REAL
def test_thread_is_seen_until_it_ends(new_loop: Loops) -> None:
    """A thread of one's own, daemon or not, and the workers of a pool that is not shut down."""

    async def body(_ledger: Ledger, scope: Scope) -> None:
        go = threading.Event()
        thread = threading.Thread(target=go.wait, daemon=True)
        thread.start()
        pool = concurrent.futures.ThreadPoolExecutor(1)
        pool.submit(int).result()
        assert sorted(seen(scope)) == [("thread", "body")] * 2
        names = sorted(record.name for record in scope.everything())
        assert names == ["Event.wait", "worker of a pool that is not shut down"]
        assert {record.state().split(" (")[0] for record in scope.everything()} <= {
            "runs in Condition.wait",
            "runs in _worker",
        }
        go.set()
        thread.join()
        pool.shutdown()
        assert scope.clean

    run(new_loop, body)


def test_pool_made_before_is_no_leak() -> None:
    """A pool that was there starts its workers when first used; that is no leak of the user."""

    async def body(_ledger: Ledger, scope: Scope) -> None:
        assert await asyncio.get_running_loop().run_in_executor(pool, int) == 0
        await iterations()
        assert scope.clean

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        run(asyncio.SelectorEventLoop, body)


@REAL
def test_job_hands_tasks_back_to_the_scope_of_its_caller(new_loop: Loops) -> None:
    """A task that a job starts on the loop is charged to the caller, whatever worker runs it."""

    async def body(ledger: Ledger, scope: Scope) -> None:
        await tasks_handed_back(ledger)
        assert scope.clean

    run(new_loop, body)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="the option came with 3.14")
@pytest.mark.parametrize("kinds", ["KINDS", '["task", "timer", "transport"]'])
def test_job_hands_tasks_back_to_its_caller_though_workers_inherit(kinds: str) -> None:
    """With ``-X thread_inherit_context=1`` a worker keeps the scope of the job that started it.

    Also for a ledger that records no jobs, such as that of a Monitor.
    """
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; from {Path(__file__).stem} import *\n"
        f"with asyncio.Runner() as runner, Ledger({kinds}).watching(runner.get_loop()) as ledger:\n"
        "    runner.run(tasks_handed_back(ledger))"
    )
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-X", "thread_inherit_context=1", "-c", code],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


async def tasks_handed_back(ledger: Ledger) -> None:
    """Let one worker run a job in each of three scopes, and one in none, that starts a task."""
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[Any]] = []

    async def start() -> None:
        tasks.append(asyncio.create_task(forever()))

    def job() -> int:
        asyncio.run_coroutine_threadsafe(start(), loop).result()
        return len(tasks)

    scopes = [ledger.scope(str(number)) for number in range(3)]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for number, scope in enumerate(scopes, 1):
            with scope:
                assert await loop.run_in_executor(pool, job) == number
        await copy_context_without_scope().run(loop.run_in_executor, pool, job)
    assert [scope.live for scope in scopes] == [1, 1, 1]
    assert len(ledger.live()) - len(tasks) in {0, 1}  # and the task that runs this
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def copy_context_without_scope() -> contextvars.Context:
    """Return a copy of the current context in which no scope is current."""
    context = contextvars.copy_context()
    context.run(CURRENT.set, None)
    return context


def test_hooks_of_the_process_are_taken_down() -> None:
    """Without a ledger that asks for them, threads and pools are as they were."""

    def now() -> list[object]:
        return [
            threading.Thread.start,
            concurrent.futures.ThreadPoolExecutor.submit,
            concurrent.futures.ThreadPoolExecutor.__init__,
        ]

    async def body(_ledger: Ledger, _scope: Scope) -> None:
        assert all(a is not b for a, b in zip(now(), before, strict=True))

    before = now()
    run(asyncio.SelectorEventLoop, body)
    assert now() == before


def test_hooks_put_back_what_was_on_the_loop() -> None:
    """A method that somebody had replaced before is put back; one replaced over ours stays."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, second = partial(loop.create_server), partial(loop.create_connection)
        loop.create_server = first  # type: ignore[method-assign]
        with Ledger({"transport"}).watching(loop):
            assert loop.create_server is not first
            loop.create_connection = second  # type: ignore[method-assign]
        assert loop.create_server is first
        assert loop.create_connection is second

    asyncio.run(main())


def test_hooks_put_back_what_is_no_method_of_its_class() -> None:
    """A loop may have a callable object in place of a method."""

    class Maker:
        def __call__(self) -> str:
            return "made"

    class Loop(asyncio.SelectorEventLoop):
        create_server: Any = Maker()

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with Ledger({"server"}).watching(loop):
            assert loop.create_server is not Loop.create_server
        assert loop.create_server is Loop.create_server

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


@LOOPS
def test_hooks_of_the_loop_are_taken_down(new_loop: Loops) -> None:
    """An uninstalled ledger leaves no attribute on the loop, and two come apart in any order."""
    loop = new_loop()
    before = dict(vars(loop))
    outer, inner = Ledger(KINDS), Ledger(KINDS)
    with contextlib.closing(loop):
        outer.install(loop)
        inner.install(loop)
        assert "_asyncgen_firstiter_hook" in vars(loop)
        inner.uninstall()
        outer.uninstall()
        assert vars(loop).keys() == before.keys()


@LOOPS
def test_error_never_retrieved_is_charged_to_its_scope(new_loop: Loops) -> None:
    """An exception nobody retrieved is charged to the scope, with the line of its task."""

    async def fail() -> None:
        raise ValueError("no such stream")

    async def body(ledger: Ledger, scope: Scope) -> None:
        task = asyncio.create_task(fail())
        await iterations()
        assert scope.clean
        del task
        await iterations()
        assert ledger.errors
        assert seen(scope) == [("error", "body")]
        assert scope.everything()[0].state().endswith("fail: ValueError: no such stream")

    run(new_loop, body)


def test_error_that_was_retrieved_is_none() -> None:
    """A task whose exception was retrieved leaves nothing."""

    async def fail() -> None:
        raise ValueError

    async def body(ledger: Ledger, scope: Scope) -> None:
        task = asyncio.create_task(fail())
        with contextlib.suppress(ValueError):
            await task
        del task
        assert ledger.errors == []
        assert scope.clean

    run(asyncio.SelectorEventLoop, body)


def test_destroyed_task_is_charged() -> None:
    """A task the ledger did not see, destroyed while pending, with the place where it waited."""

    async def body(ledger: Ledger, scope: Scope) -> None:
        task = asyncio.create_task(iterations())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_exception_handler(
            {"message": "Task was destroyed but it is pending!", "task": task}
        )
        await task
        (record,) = (each for each in ledger.everything() if each.kind != "task")
        assert record.scope in {None, scope}
        assert (record.kind, record.name) == ("destroyed", "iterations")
        assert record.waiting_on().place.startswith("iterations (tests/harness/test_kinds.py:")

    run(asyncio.SelectorEventLoop, body)


@pytest.mark.parametrize("new_loop", [asyncio.SelectorEventLoop])
def test_scope_inside_a_scope_is_seen_from_outside(new_loop: Loops) -> None:
    """The innermost scope is charged, and those around it are not clean until it is."""

    async def body(ledger: Ledger, scope: Scope) -> None:
        with ledger.scope("inner") as inner:
            timer = asyncio.get_running_loop().call_later(60, print)
        with ledger.scope("sibling") as sibling:
            pass
        assert [each.clean for each in (inner, scope, sibling)] == [False, False, True]
        assert scope.inside() == [inner]
        assert [record.scope for record in scope.everything()] == [inner]
        timer.cancel()
        assert scope.clean
        assert scope.within == {}

    run(new_loop, body)


def test_many_resources_that_ended_are_dropped() -> None:
    """Without any reading, a ledger keeps no more than a few records of ended resources."""

    async def body(ledger: Ledger, _scope: Scope) -> None:
        loop = asyncio.get_running_loop()
        for number in range(5_000):
            with ledger.scope(f"connection {number}"):
                loop.call_later(60, print).cancel()
            await asyncio.sleep(0)
        assert len(ledger._counters.fresh) < 300
        assert ledger._counters.held < 600

    run(VirtualLoop, body)


def test_kinds_are_checked() -> None:
    """An unknown kind is refused, with the known ones in the message."""
    assert valid_kinds("task") == {"task"}
    with pytest.raises(ValueError, match=r"unknown kinds \['sockets'\], expected some of .*timer"):
        Ledger(["task", "sockets"])


@pytest.fixture(autouse=True)
def no_garbage() -> Iterator[None]:
    """Garbage of a test is collected in that test, not in the next one."""
    yield
    gc.collect()


@REAL
def test_transport_of_tls_says_when_the_loop_ends_it(new_loop: Loops) -> None:
    """A TLS connection that was closed waits for its peer, which may stay silent, for 30 s."""
    trustme = pytest.importorskip("trustme", reason="needs: pip install trustme")
    server_side, client_side = (
        ssl.SSLContext(each) for each in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)
    )
    authority = trustme.CA()
    authority.issue_cert("localhost").configure_cert(server_side)
    authority.configure_trust(client_side)

    class Silent(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.pause_reading()
            accepted.append(transport)

    accepted: list[Any] = []

    async def body(_ledger: Ledger, scope: Scope) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Silent, "127.0.0.1", 0, ssl=server_side)
        client, _ = await loop.create_connection(
            asyncio.Protocol,
            *server.sockets[0].getsockname(),
            ssl=client_side,
            server_hostname="localhost",
        )
        assert await settle(until=lambda: bool(accepted))
        client.close()
        states = [each.state() for each in scope.everything() if each.thing() is client]
        name = "uvloop" if type(loop).__module__.startswith("uvloop") else "asyncio"
        assert [state.split(", to")[0] for state in states] == [
            f"is closing, {name} ends it after 30 s"
        ]
        server.close()
        for each in (client, *accepted):
            each.abort()
        assert await settle(until=lambda: client.get_protocol() is None)

    run(new_loop, body)
