"""Programs that end all that they begin: a check that accuses one of them raises a false alarm.

Each is what a careful person writes, with the usual ways to end: awaited, cancelled, closed with
and without waiting for it. `programs` returns those that this Python and these packages can run.
"""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
Program = Callable[[], Awaitable[object]]
_EAGER = getattr(asyncio, "eager_task_factory", None)  # new in Python 3.12


async def _short(result: int = 1) -> int:
    await asyncio.sleep(0)
    return result


async def _fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("expected")


async def _forever() -> None:
    await asyncio.Event().wait()


# Tasks and timers.


async def tasks_gathered() -> None:
    """Wait for tasks in each usual way."""
    assert await asyncio.gather(*(_short(n) for n in range(5))) == [0, 1, 2, 3, 4]
    done, pending = await asyncio.wait([asyncio.create_task(_short()) for _ in range(3)])
    assert (len(done), len(pending)) == (3, 0)
    for each in asyncio.as_completed([_short(), _short()]):
        await each
    found = await asyncio.gather(_fail(), _short(), return_exceptions=True)
    assert isinstance(found[0], ValueError)


async def tasks_cancelled() -> None:
    """Cancel tasks: one is awaited, one is left to end by itself."""
    awaited, left = (asyncio.create_task(_forever()) for _ in range(2))
    await asyncio.sleep(0)
    left.cancel()
    awaited.cancel()
    with suppress(asyncio.CancelledError):
        await awaited


async def task_group_that_fails() -> None:
    """A failing child cancels its siblings."""
    with suppress(BaseExceptionGroup):
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(_forever())
            group.create_task(_fail())


async def timeouts() -> None:
    """Limits that expire, that do not, and one around a shield."""
    with suppress(TimeoutError):
        await asyncio.wait_for(_forever(), 0.001)
    async with asyncio.timeout(60):
        await _short()
    inner = asyncio.create_task(_short())
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(inner), 60)
    await inner


async def timers() -> None:
    """Timers: one fires, one is cancelled."""
    loop = asyncio.get_running_loop()
    fired = asyncio.Event()
    loop.call_later(0.001, fired.set)
    loop.call_later(60, fired.set).cancel()
    loop.call_at(loop.time() + 60, fired.set).cancel()
    await fired.wait()


async def queue_with_workers() -> None:
    """Workers of a queue, cancelled once it is empty."""
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def work() -> None:
        while True:
            await queue.get()
            await asyncio.sleep(0)
            queue.task_done()

    workers = [asyncio.create_task(work()) for _ in range(3)]
    for number in range(10):
        queue.put_nowait(number)
    await queue.join()
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


async def locks() -> None:
    """Synchronisation between tasks."""
    lock, condition, semaphore = asyncio.Lock(), asyncio.Condition(), asyncio.Semaphore(2)
    ready = False

    async def use() -> None:
        async with lock, semaphore:
            await asyncio.sleep(0)
        async with condition:
            await condition.wait_for(lambda: ready)

    users = [asyncio.create_task(use()) for _ in range(4)]
    while lock.locked() or not ready:
        await asyncio.sleep(0)
        ready = True
    async with condition:
        condition.notify_all()
    await asyncio.gather(*users)


async def threads_and_loop() -> None:
    """Hand work to a thread, and from a thread back to the loop."""
    loop = asyncio.get_running_loop()

    def in_thread() -> int:
        return asyncio.run_coroutine_threadsafe(_short(2), loop).result()

    assert await asyncio.to_thread(in_thread) == 2
    done = asyncio.Event()
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(done.set,))
    thread.start()
    await done.wait()
    await asyncio.to_thread(thread.join)


async def executors() -> None:
    """The loop's own pool, and one that is shut down."""
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, sum, range(10)) == 45
    with ThreadPoolExecutor(2) as pool:
        jobs = [loop.run_in_executor(pool, sum, range(n)) for n in range(4)]
        assert await asyncio.gather(*jobs) == [0, 0, 1, 3]


# Generators and context managers.


async def _count(limit: int) -> AsyncIterator[int]:
    for number in range(limit):
        yield number
        await asyncio.sleep(0)


async def generators() -> None:
    """Generators: one runs to its end, one is closed, one is left by a `break`."""
    assert [number async for number in _count(3)] == [0, 1, 2]
    async with contextlib.aclosing(_count(5)) as closing:  # type: ignore[type-var]
        async for _ in closing:
            break
    async for number in _count(9):
        if number == 1:
            break


async def context_managers() -> None:
    """Context managers on a stack, one of which runs a task."""

    @asynccontextmanager
    async def background() -> AsyncIterator[None]:
        task = asyncio.create_task(_forever())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(background())


# Connections.


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()


async def _talk(connected: Awaitable[Any], data: bytes = b"hello\n") -> None:
    reader, writer = await connected
    writer.write(data)
    await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
        assert await reader.read() == data
    else:
        assert await reader.readexactly(len(data)) == data
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


def _port(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


async def tcp_streams() -> None:
    """A server and clients, closed in the recommended way."""
    async with await asyncio.start_server(_echo, HOST, 0) as server:
        for _ in range(2):
            await _talk(asyncio.open_connection(HOST, _port(server)))
        await asyncio.gather(
            *(_talk(asyncio.open_connection(HOST, _port(server))) for _ in range(3))
        )


async def tcp_large() -> None:
    """Enough bytes to fill the buffers, in both directions."""
    server = await asyncio.start_server(_echo, HOST, 0)
    reader, writer = await asyncio.open_connection(HOST, _port(server))
    data = bytes(1 << 20)

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    sending = asyncio.create_task(send())
    assert len(await reader.read()) == len(data)
    await sending
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def tcp_closed_without_waiting() -> None:
    """Neither the client's end nor the server's is waited for."""
    server = await asyncio.start_server(_echo, HOST, 0)
    _, writer = await asyncio.open_connection(HOST, _port(server))
    writer.write(b"hello\n")
    writer.close()
    server.close()


async def tcp_reset() -> None:
    """The client resets, while the server answers."""
    server = await asyncio.start_server(_echo, HOST, 0)
    reader, writer = await asyncio.open_connection(HOST, _port(server))
    writer.write(bytes(1 << 18))
    await reader.read(1)
    writer.transport.abort()
    server.close()


async def tcp_refused() -> None:
    """Nobody listens."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        with suppress(ConnectionError):
            await asyncio.open_connection(*taken.getsockname())


class _Lines(asyncio.Protocol):
    """Answers in capitals and closes at the end-of-file."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data.upper())


class _Once(asyncio.Protocol):
    """Sends one line, and closes when the answer comes."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(b"hello")

    def data_received(self, data: bytes) -> None:
        assert data == b"HELLO"
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost.set_result(None)


async def tcp_protocols() -> None:
    """A server and a client without streams."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Lines, HOST, 0)
    _, client = await loop.create_connection(_Once, HOST, _port(server))
    await client.lost
    server.close()


async def unix_sockets() -> None:
    """The same over a Unix socket."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/socket"
        async with await asyncio.start_unix_server(_echo, path):
            for _ in range(2):
                await _talk(asyncio.open_unix_connection(path))


async def tls_streams(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    """A TLS server and its client."""
    async with await asyncio.start_server(_echo, HOST, 0, ssl=server_side) as server:
        for _ in range(2):
            await _talk(asyncio.open_connection(HOST, _port(server), ssl=client_side))


async def tls_without_waiting(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    """TLS, where the client waits for an answer and then for nothing more."""
    server = await asyncio.start_server(_echo, HOST, 0, ssl=server_side)
    reader, writer = await asyncio.open_connection(HOST, _port(server), ssl=client_side)
    writer.write(b"hello\n")
    await reader.readline()
    writer.close()
    server.close()


async def datagrams() -> None:
    """Two UDP endpoints."""
    loop = asyncio.get_running_loop()
    received: asyncio.Queue[bytes] = asyncio.Queue()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            del addr
            received.put_nowait(data)

    near, _ = await loop.create_datagram_endpoint(Receiver, local_addr=(HOST, 0))
    address = near.get_extra_info("sockname")
    far, _ = await loop.create_datagram_endpoint(Receiver, remote_addr=address)
    far.sendto(b"hello")
    assert await received.get() == b"hello"
    far.close()
    near.close()


async def sockets_by_hand() -> None:
    """Socket calls of the loop, and watched descriptors."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    for end in (near, far):
        end.settimeout(0)
    ready = asyncio.Event()
    loop.add_reader(far, ready.set)
    await loop.sock_sendall(near, b"hello")
    await ready.wait()
    loop.remove_reader(far)
    assert await loop.sock_recv(far, 16) == b"hello"
    near.close()
    far.close()


async def pipes() -> None:
    """Both ends of a pipe."""
    loop = asyncio.get_running_loop()
    readable, writable = os.pipe()
    reader = asyncio.StreamReader()
    source = os.fdopen(readable, "rb", 0)
    near, _ = await loop.connect_read_pipe(partial(asyncio.StreamReaderProtocol, reader), source)
    far, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(writable, "wb", 0))
    far.write(b"hello")
    far.close()
    assert await reader.read() == b"hello"
    near.close()


# Processes and signals.


async def subprocesses() -> None:
    """One process that talks and one that only ends."""
    talker = await asyncio.create_subprocess_exec(
        "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    out, _ = await talker.communicate(b"hello")
    assert out == b"hello"
    silent = await asyncio.create_subprocess_exec("true")
    assert await silent.wait() == 0


async def subprocess_killed() -> None:
    """A process that is killed and waited for."""
    process = await asyncio.create_subprocess_exec("sleep", "60")
    process.kill()
    await process.wait()


async def signals() -> None:
    """A handler that fires and is removed."""
    loop = asyncio.get_running_loop()
    received = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, received.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await received.wait()
    loop.remove_signal_handler(signal.SIGUSR1)


# Eager tasks.


async def _with_eager_factory() -> None:
    loop = asyncio.get_running_loop()
    if sys.version_info < (3, 14) and not isinstance(loop, asyncio.BaseEventLoop):
        # uvloop gives factories a setting that asyncio's eager one knows from 3.14 on.
        return
    before = loop.get_task_factory()
    loop.set_task_factory(_EAGER)
    try:
        await tasks_gathered()
        await task_group_that_fails()
        await tcp_streams()
    finally:
        loop.set_task_factory(before)


async def _started_eagerly() -> None:
    loop: Any = asyncio.get_running_loop()
    tasks = [loop.create_task(_short(), eager_start=True) for _ in range(3)]
    tasks.append(loop.create_task(_forever(), eager_start=True, name="left"))
    await asyncio.sleep(0)
    tasks[-1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# Other people's packages.


async def anyio_groups() -> None:
    """Task groups, cancel scopes, streams in memory and worker threads."""
    anyio = import_module("anyio")
    send, receive = anyio.create_memory_object_stream(2)

    async def produce() -> None:
        async with send:
            for number in range(5):
                await send.send(number)

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        async with receive:
            assert [item async for item in receive] == [0, 1, 2, 3, 4]
    with anyio.move_on_after(0.001):
        await anyio.sleep_forever()
    assert await anyio.to_thread.run_sync(sum, range(4)) == 6
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        group.cancel_scope.cancel()


async def anyio_network() -> None:
    """A listener and its client."""
    anyio = import_module("anyio")

    async def serve(stream: Any) -> None:
        async with stream:
            await stream.send(await stream.receive())

    listener = await anyio.create_tcp_listener(local_host=HOST)
    port = listener.extra(import_module("anyio.abc").SocketAttribute.local_port)  # noqa: S610 - no Django here
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        async with await anyio.connect_tcp(HOST, port) as stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
        group.cancel_scope.cancel()


async def websockets_echo() -> None:
    """A server of websockets and its client."""
    server_module = import_module("websockets.asyncio.server")
    client_module = import_module("websockets.asyncio.client")

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async with server_module.serve(echo, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with client_module.connect(f"ws://{HOST}:{port}") as client:
            await client.send("hello")
            assert await client.recv() == "hello"


async def aiohttp_request() -> None:
    """A server of aiohttp and its client."""
    aiohttp, web = import_module("aiohttp"), import_module("aiohttp.web")

    async def hello(_request: Any) -> Any:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session, session.get(f"http://{HOST}:{port}/") as answer:
        assert await answer.text() == "hello"
    await runner.cleanup()


_ALWAYS: tuple[Program, ...] = (
    tasks_gathered,
    tasks_cancelled,
    task_group_that_fails,
    timeouts,
    timers,
    queue_with_workers,
    locks,
    threads_and_loop,
    executors,
    generators,
    context_managers,
    tcp_streams,
    tcp_large,
    tcp_closed_without_waiting,
    tcp_reset,
    tcp_refused,
    tcp_protocols,
    unix_sockets,
    datagrams,
    sockets_by_hand,
    pipes,
    subprocesses,
    subprocess_killed,
    signals,
)
_OPTIONAL: dict[str, tuple[Program, ...]] = {
    "anyio": (anyio_groups, anyio_network),
    "websockets": (websockets_echo,),
    "aiohttp": (aiohttp_request,),
}


def _certificate() -> tuple[ssl.SSLContext, ssl.SSLContext] | None:
    """Return contexts of a server and its client, for a new certificate; None without openssl."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "both.pem"
        command = (
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
            f"-addext subjectAltName=IP:{HOST} -keyout {path} -out {path}.crt"
        )
        try:
            made = subprocess.run(  # noqa: S603 - our own words
                command.split(), capture_output=True, check=False
            )
        except FileNotFoundError:
            return None
        if made.returncode:
            return None
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(f"{path}.crt", path)
        return server, ssl.create_default_context(cafile=f"{path}.crt")


def programs() -> tuple[dict[str, Program], list[str]]:
    """Return the programs by name, and a reason for each group of them that cannot run here."""
    found, missing = {each.__name__: each for each in _ALWAYS}, []
    contexts = _certificate()
    if contexts is None:
        missing.append("TLS needs the command openssl")
    else:
        found["tls_streams"] = partial(tls_streams, *contexts)
        found["tls_without_waiting"] = partial(tls_without_waiting, *contexts)
    if _EAGER is None:
        missing.append("eager tasks need Python 3.12")
    else:
        found["eager_factory"] = _with_eager_factory
    if sys.version_info >= (3, 14):
        found["eager_start"] = _started_eagerly
    for package, those in _OPTIONAL.items():
        if find_spec(package) is None:
            missing.append(f"{package} is not installed")
        else:
            found |= {each.__name__: each for each in those}
    return found, missing


async def plant() -> None:
    """Leave a task behind: no innocent program, to see that the count can rise."""
    task = asyncio.create_task(_forever())
    task.add_done_callback(lambda _: None)
    _PLANTED.append(task)


_PLANTED: list[asyncio.Task[None]] = []
