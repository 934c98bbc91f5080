"""Objects of other people raise, lie and refuse weak references; the program never notices us."""

import asyncio
import contextlib
import gc
import importlib.util
import ssl
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any
from weakref import ref

import pytest

from loops import REAL
from muxleak import LeakError, Monitor, measure_growth, no_leaks
from muxleak.checks import no_leaks as checks
from muxleak.introspect.foreign import ByIdentity, ask
from muxleak.introspect.names import attribute, is_a, module_of, safe_text, type_name
from muxleak.introspect.referrers import held_by_slot, who_can_wake
from muxleak.introspect.waiting import callable_name, name_of
from muxleak.ledger import kinds as records
from muxleak.ledger.kinds import KINDS
from muxleak.ledger.ledger import Ledger, shared_ledger

Loops = Callable[[], asyncio.AbstractEventLoop]
Observed = Callable[[], AbstractAsyncContextManager[Any]]

needs_trustme = pytest.mark.skipif(
    importlib.util.find_spec("trustme") is None, reason="needs: pip install trustme"
)


class Hostile:
    """Answers every question with an exception, but for those of the interpreter itself."""

    def __getattribute__(self, name: str) -> Any:
        raise ZeroDivisionError(name)

    def __repr__(self) -> str:
        raise ZeroDivisionError("repr")

    __str__ = __repr__
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError("==")

    def __bool__(self) -> bool:
        raise ZeroDivisionError("bool")

    def __call__(self, *_arguments: object) -> None:
        """Do nothing: it is a callback, too."""


class _Meta(type):
    __module__ = property(lambda _: 0)
    __name__ = property(lambda _: 1 / 0)


class Misnamed(metaclass=_Meta):
    """Its class names itself by no text."""


class Unreferable:
    """Allows no weak reference, as objects of extension classes do."""

    __slots__ = ("closed", "protocol")

    def __init__(self, protocol: object = None) -> None:
        self.protocol, self.closed = protocol, False

    def get_protocol(self) -> object:
        """Return its protocol until it is closed."""
        return self.protocol

    def is_closing(self) -> bool:
        """Return True once it is closed."""
        return self.closed

    def get_extra_info(self, _name: str) -> None:
        """Know nothing."""

    def close(self) -> None:
        """Drop the protocol."""
        self.protocol, self.closed = None, True


@asynccontextmanager
async def monitored() -> Any:
    """A monitor, as an asynchronous context manager."""
    with Monitor(interval=None) as monitor:
        yield monitor
        monitor.sample()


@asynccontextmanager
async def counted() -> Any:
    """A ledger of every kind."""
    with Ledger(KINDS).watching(asyncio.get_running_loop()) as ledger:
        yield ledger
        ledger.root.prune()


OBSERVED = pytest.mark.parametrize("observed", [nullcontext, monitored, no_leaks, counted])


def run(new_loop: Loops, main: Callable[[], Awaitable[object]]) -> Any:
    """Run a coroutine function on a loop."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())  # type: ignore[arg-type]


def test_questions_to_a_hostile_object_have_an_answer() -> None:
    """Attributes, methods, types, names and texts; never an exception."""
    thing = Hostile()
    assert attribute(thing, "loop", "none") == "none"
    assert ask(thing, "get_protocol", default=7) == 7
    assert ask(None, "missing") is None
    assert not is_a(thing, asyncio.Future)
    assert is_a(OSError(), Exception)
    assert type_name(thing) == "Hostile"
    assert safe_text(thing, str) == "<Hostile, unreadable (ZeroDivisionError)>"
    assert (module_of(Misnamed()), type_name(Misnamed())) == (__name__, "Misnamed")
    assert (callable_name(thing), name_of(thing)) == ("Hostile", "Hostile")  # type: ignore[arg-type]


@REAL
def test_search_for_holders_survives_hostile_objects(new_loop: Loops) -> None:
    """They hold the event that a task waits for, and the task."""

    class Holder(metaclass=_Meta):
        pass

    class Raising(Hostile):
        pass

    async def main() -> tuple[str, str | None]:
        holder: Any = Holder()
        holder.event = asyncio.Event()
        raising = Raising()
        object.__getattribute__(raising, "__dict__")["event"] = holder.event
        task = asyncio.create_task(holder.event.wait())
        object.__getattribute__(raising, "__dict__")["task"] = task
        await asyncio.sleep(0)
        found = who_can_wake(task), held_by_slot(task)
        task.cancel()
        return found

    woken, slot = run(new_loop, main)
    assert woken.startswith("could still be woken by")
    assert slot is None


@REAL
@OBSERVED
@needs_trustme
def test_tls_server_answers_while_it_is_observed(new_loop: Loops, observed: Observed) -> None:
    """Every request, over transports that allow no weak reference on uvloop."""
    server_side, client_side = contexts()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(4))
        writer.close()

    async def request(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_side)
        writer.write(b"ping")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def main() -> list[bytes]:
        async with observed():
            server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side)
            answers = [await request(server.sockets[0].getsockname()[1]) for _ in range(5)]
            server.close()
            await server.wait_closed()
            return answers

    assert run(new_loop, main) == [b"ping"] * 5


@REAL
@OBSERVED
def test_subprocess_runs_while_it_is_observed(new_loop: Loops, observed: Observed) -> None:
    """It ends, is no leak, and uvloop's transport is let go although it keeps its protocol."""

    async def main() -> int | None:
        async with observed():
            process = await asyncio.create_subprocess_exec("true", stdout=asyncio.subprocess.PIPE)
            await process.communicate()
            return process.returncode

    assert run(new_loop, main) == 0


@REAL
def test_running_subprocess_is_a_leak(new_loop: Loops) -> None:
    """On uvloop, too, whose transports allow no weak reference; then it is killed."""
    exited = asyncio.Event()

    class Process(asyncio.SubprocessProtocol):
        def process_exited(self) -> None:
            exited.set()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(LeakError, match="1 transport leaked"):
            async with no_leaks(budget=0.05):
                await loop.subprocess_exec(
                    *(Process, "sleep", "60"), stdin=None, stdout=None, stderr=None
                )
        await exited.wait()

    run(new_loop, main)


@REAL
@needs_trustme
@pytest.mark.parametrize("end", ["abort", "close twice"])
def test_tls_transport_without_protocol_has_ended(new_loop: Loops, end: str) -> None:
    """`get_protocol` of asyncio's raises AttributeError after a second close."""
    server_side, client_side = contexts()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):  # which asyncio would report from 3.12 on
            await reader.read()
        writer.close()

    async def main() -> None:
        async with no_leaks():
            server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side)
            port = server.sockets[0].getsockname()[1]
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_side)
            if end == "abort":
                writer.transport.abort()
            else:
                writer.close()
                writer.close()
            kept.append(writer)
            server.close()
            await server.wait_closed()

    kept: list[asyncio.StreamWriter] = []
    run(new_loop, main)
    assert kept


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a server with a certificate of its own, and of its clients."""
    import trustme  # noqa: PLC0415 - it may be missing

    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(server_side)
    client_side = ssl.create_default_context()
    client_side.check_hostname, client_side.verify_mode = False, ssl.CERT_NONE
    return server_side, client_side


class NakedLoop:
    """A loop that allows no weak reference and no attributes, and is neither hashable nor equal.

    It gives the answers of a loop of asyncio's, whose task factories and handlers it cannot set.
    """

    __slots__ = ("loop",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError("==")

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("set_", "get_exception", "get_task")):
            raise ZeroDivisionError(name)
        return getattr(self.loop, name)


def test_loop_that_refuses_everything_is_left_alone() -> None:
    """Weak references, attributes, hashes, comparison, factories and handlers: all are `unseen`."""
    inner = asyncio.new_event_loop()
    loop: Any = NakedLoop(inner)
    outer = Ledger(KINDS)
    with outer.watching(loop), Ledger(KINDS).watching(loop) as ledger:
        handle = loop.call_later(60, print)
        handle.cancel()
        assert ledger.everything() == []
        for each in (outer, ledger):
            assert "tasks, as set_task_factory of NakedLoop raises ZeroDivisionError" in each.unseen
            assert "NakedLoop.call_later cannot be watched" in each.unseen
    inner.close()
    with shared_ledger(loop) as one, shared_ledger(loop) as other:
        assert one is other


def test_a_freed_loop_is_forgotten() -> None:
    """Values by identity go with their object, unless it allows no weak reference."""

    class Thing:
        pass

    values: ByIdentity[int] = ByIdentity()
    thing, naked = Thing(), Unreferable()
    values.set(thing, 1)
    values.set(thing, 2)
    values.set(naked, 3)
    assert (values.get(thing, 0), values.get(naked, 0)) == (2, 3)
    del thing
    assert len(values._values) == 1
    values.remove(naked)
    values.remove(naked)
    assert (values.get(naked, 0), values._values) == (0, {})


class ForeignLoop(asyncio.SelectorEventLoop):
    """Makes connections, servers and timers of other classes than asyncio's."""

    made: Any = None

    async def create_connection(self, *_arguments: Any, **_settings: Any) -> Any:
        """Return `made` as the transport."""
        return self.made, None

    create_server = create_connection

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        """Return `made`, if there is any, as the timer."""
        handle = super().call_at(when, callback, *args, context=context)
        return handle if self.made is None else self.made


def on_foreign(made: object, body: Callable[[Ledger, Any], Awaitable[object]]) -> Ledger:
    """Run a body on a loop that makes `made`, under a ledger of every kind."""
    loop = ForeignLoop()
    loop.made = made
    try:
        with Ledger(KINDS).watching(loop) as ledger:
            loop.run_until_complete(body(ledger, loop))
        return ledger
    finally:
        loop.close()


def resources(ledger: Ledger) -> list[Any]:
    """Return the records of everything alive but tasks."""
    return [record for record in ledger.everything() if record.kind != "task"]


def test_transport_without_weak_references_is_held_until_its_end() -> None:
    """It is counted while it is open; once closed it is freed by the next look."""

    class Sentinel:
        pass

    async def body(ledger: Ledger, loop: Any) -> None:
        protocol = Sentinel()
        loop.made = Unreferable(protocol)
        await loop.create_connection(None)
        (record,) = resources(ledger)
        assert (record.kind, record.state()) == ("transport", "is open")
        transport = record.thing()
        freed = ref(protocol)
        loop.made = protocol = None  # type: ignore[assignment]
        assert record.thing() is transport
        transport.close()
        del transport
        assert resources(ledger) == []
        assert record.thing() is None
        assert freed() is None

    assert on_foreign(None, body).unseen == ()


def test_timer_without_weak_references_is_unseen() -> None:
    """Nothing says when it is due, so it would keep its arguments alive if it were held."""

    async def body(_ledger: Ledger, loop: Any) -> None:
        loop.call_at(60, print)

    assert on_foreign(Unreferable(), body).unseen == (
        "timers of Unreferable, which allow no weak reference",
    )


def test_hostile_transport_is_named_and_disturbs_nobody() -> None:
    """As the answer of `create_connection`: it is passed on, and `unseen` names its class."""
    thing = Hostile()

    async def body(ledger: Ledger, loop: Any) -> None:
        transport, _ = await loop.create_connection(None)
        assert transport is thing
        assert resources(ledger) == []

    assert on_foreign(thing, body).unseen == (
        "transports of Hostile, which raise ZeroDivisionError",
    )


class PickyProtocol(asyncio.Protocol):
    """Refuses attributes, by an exception that is no AttributeError."""

    def __setattr__(self, name: str, value: object) -> None:
        raise ZeroDivisionError(name)


class OwnAttribute(asyncio.Protocol):
    """Sets its callback itself."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.connection_made = self.calls.append  # type: ignore[method-assign, assignment]


@REAL
@pytest.mark.parametrize("factory", [PickyProtocol, OwnAttribute])
def test_accepted_protocol_is_left_as_it_was(
    new_loop: Loops, factory: Callable[[], asyncio.Protocol]
) -> None:
    """A protocol that takes no attribute, and one that has set `connection_made` itself."""
    protocols: list[Any] = []

    def accept() -> asyncio.Protocol:
        protocols.append(factory())
        return protocols[-1]  # type: ignore[no-any-return]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with Ledger(KINDS).watching(loop) as ledger:
            server = await loop.create_server(accept, "127.0.0.1", 0)
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.close()
            await writer.wait_closed()
            await asyncio.sleep(0.01)
            server.close()
            (protocol,) = protocols
            if factory is OwnAttribute:
                assert protocol.connection_made == protocol.calls.append
                assert len(protocol.calls) == 1
            elif isinstance(loop, asyncio.BaseEventLoop):
                assert ledger.unseen == ()
            else:
                assert ledger.unseen[0].startswith("accepted connections of PickyProtocol")

    run(new_loop, main)


class ForeignTask(asyncio.Task[Any]):
    """A task that does not answer."""

    def done(self) -> bool:
        """Raise."""
        raise ZeroDivisionError

    def get_loop(self) -> Any:
        """Raise."""
        raise ZeroDivisionError


@REAL
def test_hostile_tasks_are_named(new_loop: Loops) -> None:
    """A task factory makes tasks that raise when they are asked if they have ended."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **more: ForeignTask(coro, loop=loop, **more))
        ran = asyncio.Event()

        async def work() -> None:
            ran.set()

        with Ledger(KINDS).watching(loop) as ledger:
            task = loop.create_task(work())
            await ran.wait()
            assert ledger.count == 0
            assert ledger.unseen == ("tasks of ForeignTask, which raise ZeroDivisionError",)
            del task
        loop.set_task_factory(None)

    run(new_loop, main)


class HostileThread(threading.Thread):
    """Its parts raise."""

    @property
    def _args(self) -> Any:
        raise ZeroDivisionError

    @_args.setter
    def _args(self, _value: object) -> None:
        pass

    @property
    def _target(self) -> Any:
        raise ZeroDivisionError

    @_target.setter
    def _target(self, _value: object) -> None:
        pass

    def run(self) -> None:
        """End."""


class SlottedFuture(Future[Any]):
    """Raises when it is asked."""

    def done(self) -> bool:
        """Raise."""
        raise ZeroDivisionError


class HostileExecutor(Executor):
    """Gives futures that raise."""

    def submit(self, *_args: Any, **_settings: Any) -> Any:
        """Return one."""
        return SlottedFuture()


@REAL
def test_hostile_callbacks_threads_and_readers(new_loop: Loops) -> None:
    """Timers with a hostile callback, threads with hostile parts, descriptors without a number."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with no_leaks():
            loop.call_later(60, Hostile()).cancel()
            for thread in (HostileThread(), threading.Thread(target=id, args=(Hostile(),))):
                thread.start()
                thread.join()
            with pytest.raises((ValueError, TypeError, AttributeError, ZeroDivisionError)):
                loop.add_reader(Hostile(), print)
            assert await loop.run_in_executor(None, lambda: 7) == 7

    run(new_loop, main)


@REAL
def test_hostile_contexts_reach_the_programs_handler(new_loop: Loops) -> None:
    """Errors of the loop whose message, exception or future is no such thing."""
    seen: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: seen.append(context))
        async with no_leaks():
            for message in ("never retrieved", Hostile(), None):
                loop.call_exception_handler({"message": message, "exception": Hostile()})
            loop.call_exception_handler({"message": "never retrieved", "future": 7})

    run(new_loop, main)
    assert len(seen) == 4


def broken(*_arguments: object, **_settings: object) -> Any:
    """Fail as a check with a fault of its own would."""
    raise ZeroDivisionError("a fault")


@REAL
def test_failure_of_a_check_is_reported_and_changes_nothing(
    new_loop: Loops, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a block, with and without an error of its own, as a decorator, and repeated."""
    for name in ("left_behind", "measure_growth"):
        monkeypatch.setattr(checks, name, broken)

    async def block() -> None:
        async with no_leaks():
            pass

    async def raising() -> None:
        async with no_leaks():
            raise KeyError("own")

    @no_leaks(repeat=4)
    async def repeated() -> int:
        return 7

    @no_leaks
    def around() -> int:
        return run(new_loop, seven)  # type: ignore[no-any-return]

    async def seven() -> int:
        return 7

    run(new_loop, block)
    with pytest.raises(KeyError, match="own") as caught:
        run(new_loop, raising)
    assert not hasattr(caught.value, "__notes__")
    assert run(new_loop, repeated) == 7
    assert around() == 7
    lines = [each for each in caplog.messages if each.startswith("muxleak could not check")]
    assert [line.partition(": ")[0].rpartition(".")[2] for line in lines] == [
        *("muxleak could not check no_leaks",) * 2,
        "repeated",
        "around",
    ]


@REAL
def test_error_of_a_repeated_function_passes(new_loop: Loops) -> None:
    """It is not taken for a failure of the check."""

    @no_leaks(repeat=4)
    async def repeated() -> None:
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        run(new_loop, repeated)


@REAL
def test_growth_survives_hostile_objects_on_the_heap(new_loop: Loops) -> None:
    """Every object of the process is looked at, those whose `__class__` raises included."""
    hostile: list[Any] = [Hostile()]
    hostile.append(hostile)

    async def nothing() -> None:
        pass

    async def main() -> bool:
        return bool(await measure_growth(nothing, repetitions=4))

    gc.collect()
    assert not run(new_loop, main)
    assert len(hostile) == 2


def test_process_record_asks_for_the_return_code() -> None:
    """The transport of uvloop keeps its protocol for ever; open pipes keep it open."""

    class Pipe:
        closing = False

        def is_closing(self) -> bool:
            return self.closing

    class Process:
        code: int | None = None
        pipe = Pipe()

        def get_protocol(self) -> object:
            return self

        def get_returncode(self) -> int | None:
            return self.code

        def get_pipe_transport(self, fd: int) -> Pipe | None:
            return self.pipe if fd == 1 else None

    process = Process()
    record = records.ProcessRecord(process, "subprocess", [], Ledger(KINDS).root)
    assert record.alive()
    process.code = 0
    assert record.alive()
    process.pipe.closing = True
    assert not record.alive()
