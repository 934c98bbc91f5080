"""The network in memory: unmodified programs run on it, and it behaves as loopback TCP does."""

import asyncio
import errno
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from muxleak.search import find_leaks
from muxleak.sim import Choices, Network, SimulationError, current, simulate

Log = list[tuple[str, object]]
WHERE = ("127.0.0.1", 7000)


class Recorder(asyncio.Protocol):
    """Writes its callbacks down; reacts to some of them."""

    def __init__(self, **reactions: Callable[[Any], object]) -> None:
        self.log: Log = []
        self.reactions = reactions
        self.transport: Any = None

    def note(self, event: str, detail: object = None) -> object:
        """Write down one callback and react to it."""
        if event == "data" and self.log[-1][0] == "data":
            self.log[-1] = ("data", int(str(self.log[-1][1])) + int(str(detail)))
            return None
        self.log.append((event, detail))
        return self.reactions.get(event, lambda _: None)(self.transport)

    def connection_made(self, transport: Any) -> None:
        """Note it."""
        self.transport = transport
        self.note("made")

    def data_received(self, data: bytes) -> None:
        """Note how much came in a row."""
        self.note("data", len(data))

    def eof_received(self) -> bool:
        """Note it; the reaction decides whether the connection stays half open."""
        return bool(self.note("eof"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the kind of loss."""
        self.note("lost", type(exc).__name__ if exc else None)


class Datagrams(asyncio.DatagramProtocol):
    """Writes down what arrives; may answer."""

    def __init__(self, *, answer: bool = False) -> None:
        self.log: list[object] = []
        self.answer = answer
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Keep it."""
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Note it, and answer."""
        self.log.append(data)
        if self.answer:
            self.transport.sendto(data.upper(), addr)

    def error_received(self, exc: Exception) -> None:
        """Note the kind."""
        self.log.append(type(exc))


async def serve_upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each line in capitals until the end."""
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def ask(host: str = "localhost", port: int = 7000) -> bytes:
    """Send a line and take the answer."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"hello\n")
        return await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()


def on_server(
    client: Callable[[], Awaitable[Any]], host: str | None = "127.0.0.1"
) -> Callable[[], Coroutine[Any, Any, Any]]:
    """A program: the line server, and a client of it."""

    async def program() -> object:
        server = await asyncio.start_server(serve_upper, host, 7000)
        async with server:
            return await client()

    return program


@pytest.mark.parametrize("host", ["127.0.0.1", "", None, "0.0.0.0", "localhost", "db"])  # noqa: S104 - simulated
def test_streams_run_unmodified(host: str | None) -> None:
    """A stream server and its client run as they are, wherever the server listens."""
    network = Network(hosts={"db": "127.0.0.1"})

    assert simulate(on_server(ask, host), network=network).value == b"HELLO\n"


@pytest.mark.parametrize("seed", range(40))
def test_streams_give_the_same_answer_in_every_run(seed: int) -> None:
    """However arrivals are cut, held and ordered, a correct program is correct."""

    async def four() -> list[bytes]:
        return await asyncio.gather(*(ask() for _ in range(4)))

    outcome = simulate(on_server(four), seed=seed, network=Network(latency=(0.0, 0.5)))

    assert outcome.value == [b"HELLO\n"] * 4
    assert not outcome.errors


def test_names_and_addresses_resolve_without_a_resolver() -> None:
    """IP literals, localhost and declared names resolve; others fail with what to do about it."""

    async def program() -> list[Any]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo("db", 80, type=socket.SOCK_STREAM)
        found += await loop.getaddrinfo("::1", "https", type=socket.SOCK_DGRAM)
        with pytest.raises(socket.gaierror, match=r"'elsewhere.test' .* Network\(hosts="):
            await asyncio.open_connection("elsewhere.test", 80)
        with pytest.raises(socket.gaierror, match="no address of that family"):
            await loop.getaddrinfo("::1", 80, family=socket.AF_INET)
        return [*found, await loop.getnameinfo(("10.0.0.7", 80))]

    assert simulate(program, network=Network(hosts={"db": "10.0.0.7"})).value == [
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("10.0.0.7", 80)),
        (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_UDP, "", ("::1", 443, 0, 0)),
        ("10.0.0.7", "80"),
    ]


def test_server_owns_its_address_until_closed() -> None:
    """A second server on one port fails as the system has it; port 0 finds a free one."""

    async def program() -> tuple[int, list[bytes]]:
        first = await asyncio.start_server(serve_upper, *WHERE)
        with pytest.raises(OSError, match="in use") as caught:
            await asyncio.start_server(serve_upper, *WHERE)
        first.close()
        with pytest.raises(ConnectionRefusedError):
            await ask()
        second = await asyncio.start_server(serve_upper, "127.0.0.1", 0)
        port = second.sockets[0].getsockname()[1]
        answers = [await ask(port=port)]
        second.close()
        await second.wait_closed()
        return caught.value.errno or 0, answers

    assert simulate(program).value == (errno.EADDRINUSE, [b"HELLO\n"])


def test_server_waits_for_its_connections() -> None:
    """`wait_closed` returns when the last connection is closed; in 3.11 it does not wait."""

    async def program() -> list[str]:
        server = await asyncio.start_server(serve_upper, *WHERE)
        _, writer = await asyncio.open_connection(*WHERE)
        await current().settle()
        server.close()
        order = []
        waiting = asyncio.create_task(server.wait_closed())
        waiting.add_done_callback(lambda _: order.append("server"))
        await current().settle()
        order.append("client")
        writer.close()
        await waiting
        return order

    assert simulate(program).value == (
        ["client", "server"] if sys.version_info >= (3, 12) else ["server", "client"]
    )


def test_server_that_closes_as_it_accepts_strands_the_connection() -> None:
    """As on asyncio: a factory, no `connection_made`, and silence at the client; or else a reset.

    The environment decides when the arrival is seen, and so which of the three courses it takes.
    """
    courses: dict[str, int] = {}
    steps: list[str] = []

    async def program() -> None:
        loop = asyncio.get_running_loop()
        accepted: list[Recorder] = []

        def factory() -> Recorder:
            accepted.append(Recorder())
            return accepted[-1]

        server = await loop.create_server(factory, *WHERE)
        connecting = asyncio.create_task(loop.create_connection(Recorder, *WHERE))
        for _ in range(current().choices.below(5)):
            await asyncio.sleep(0)
        server.close()
        await asyncio.wait([connecting])
        if connecting.exception():
            course = "refused"
        else:
            transport, client = connecting.result()
            await current().settle()
            transport.write(b"anybody there?")
            await current().settle()
            at_server = accepted[0].log if accepted else None
            course = f"{[event for event, _ in client.log]} {at_server}"
            if course == "['made'] []":
                steps[:] = current().steps
            transport.close()
            await server.wait_closed()
        courses[course] = courses.get(course, 0) + 1

    assert find_leaks(program, examples=300) is None
    assert set(courses) == {
        "refused",
        "['made', 'lost'] None",
        "['made'] []",
        "['made'] [('made', None), ('data', 14)]",
    }
    words = "connection 1 to 127.0.0.1:7000 is stranded: its server closed as it accepted it"
    assert steps == [words]


def test_server_forever_ends_when_cancelled() -> None:
    """`serve_forever` serves until cancelled, and then has closed."""

    async def program() -> bool:
        server = await asyncio.start_server(serve_upper, *WHERE, start_serving=False)
        task = asyncio.create_task(server.serve_forever())
        await current().settle()
        assert await ask() == b"HELLO\n"
        task.cancel()
        await asyncio.wait([task])
        return server.is_serving()

    assert simulate(program).value is False


def test_server_protocol_that_cannot_be_made_ends_the_connection() -> None:
    """A factory that fails is reported in debug mode only; its client loses the connection."""

    def fail() -> asyncio.Protocol:
        raise ValueError("no protocol today")

    async def program() -> Log:
        loop = asyncio.get_running_loop()
        loop.set_debug(debug)
        server = await loop.create_server(fail, *WHERE)
        _, client = await loop.create_connection(Recorder, *WHERE)
        await current().settle()
        server.close()
        return client.log

    for debug, errors in (
        (False, ()),
        (
            True,
            ("Error on transport creation for incoming connection: ValueError: no protocol today",),
        ),
    ):
        outcome = simulate(program)
        assert outcome.value == [("made", None), ("eof", None), ("lost", None)]
        assert outcome.errors == errors, debug


def test_datagrams_travel_between_endpoints() -> None:
    """A UDP server answers its client; a connected endpoint learns that nobody listens."""

    async def program() -> list[object]:
        loop = asyncio.get_running_loop()
        there, _ = await loop.create_datagram_endpoint(
            lambda: Datagrams(answer=True), local_addr=WHERE
        )
        here, client = await loop.create_datagram_endpoint(Datagrams, remote_addr=WHERE)
        here.sendto(b"one")
        await current().settle()
        there.close()
        await current().settle()
        here.sendto(b"two")
        await current().settle()
        here.abort()
        await current().settle()
        return client.log

    assert simulate(program).value == [b"ONE", ConnectionRefusedError]


def test_datagrams_may_be_lost_and_overtake_each_other() -> None:
    """Where it is allowed, chance drops and reorders datagrams, and never makes any up."""

    async def program() -> list[object]:
        loop = asyncio.get_running_loop()
        there, server = await loop.create_datagram_endpoint(Datagrams, local_addr=WHERE)
        here, _ = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
        for number in range(6):
            here.sendto(bytes([number]), WHERE)
        await current().settle()
        here.close()
        there.close()
        return server.log

    network = Network(drop=True)
    seen = {
        tuple(
            bytes(str(each), "ascii")
            for each in simulate(program, seed=seed, network=network).value
        )
        for seed in range(60)
    }

    assert any(len(each) < 6 for each in seen)
    assert any(len(each) == 6 and list(each) != sorted(each) for each in seen)
    assert all(len(set(each)) == len(each) for each in seen)


def test_endpoint_refuses_what_udp_refuses() -> None:
    """Too much data, another address on a connected endpoint, an address in use."""

    async def program() -> list[object]:
        loop = asyncio.get_running_loop()
        here, client = await loop.create_datagram_endpoint(
            Datagrams, local_addr=WHERE, remote_addr=("127.0.0.1", 7001)
        )
        with pytest.raises(OSError, match="in use"):
            await loop.create_datagram_endpoint(Datagrams, local_addr=WHERE)
        with pytest.raises(ValueError, match="must be None or"):
            here.sendto(b"x", ("127.0.0.1", 1))
        with pytest.raises(TypeError, match="bytes-like"):
            here.sendto("x")  # type: ignore[arg-type]
        here.sendto(bytes(70_000))
        here.close()
        here.sendto(b"too late")
        return client.log

    assert simulate(program).value == [OSError]


@pytest.mark.parametrize(
    ("fault", "end"),
    [
        ("reset", ("lost", "ConnectionResetError")),
        ("half-close", ("lost", None)),
        ("stall", ("data", 5)),
        ("black hole", ("made", None)),
    ],
)
def test_fault_declared_on_an_open_connection(fault: str, end: tuple[str, object]) -> None:
    """A declared fault befalls the server's end of a connection."""

    async def program() -> Log:
        loop = asyncio.get_running_loop()
        recorder = Recorder()
        server = await loop.create_server(lambda: recorder, *WHERE)
        client, _ = await loop.create_connection(Recorder, *WHERE)
        await current().settle()
        current().fault(fault, *WHERE, seconds=3.0)
        client.write(b"hello")
        await asyncio.sleep(1)
        assert recorder.log[-1] != ("data", 5)
        await asyncio.sleep(5)
        server.close()
        log = list(recorder.log)
        client.abort()
        return log

    # Nobody tells the server of a black hole, and this one never gives up.
    assert simulate(program, leaks=fault != "black hole").value[-1] == end


def test_fault_declared_on_connections_to_come() -> None:
    """Connecting is refused, or never answered, until the fault is taken back."""

    async def program() -> list[object]:
        server = await asyncio.start_server(serve_upper, *WHERE)
        seen: list[object] = []
        for fault in ("refuse", "black hole", ""):
            current().fault(fault, *WHERE)
            try:
                async with asyncio.timeout(60):
                    seen.append(await ask())
            except (OSError, TimeoutError) as exc:
                seen.append(type(exc))
        server.close()
        return seen

    assert simulate(program).value == [ConnectionRefusedError, TimeoutError, b"HELLO\n"]


@pytest.mark.parametrize("fault", ["refuse", "black hole", "reset", "stall", "half-close"])
def test_fault_is_drawn_where_it_may_be(fault: str) -> None:
    """Each fault shows in some runs, only where it is declared possible, and never by default."""

    async def client() -> object:
        try:
            async with asyncio.timeout(0.5):
                return await ask()
        except (OSError, TimeoutError) as exc:
            return type(exc).__name__

    program = on_server(client)
    network = Network(faults=(fault,))
    outcomes = [simulate(program, seed=seed, network=network, leaks=False) for seed in range(60)]
    kinds = {event.kind for outcome in outcomes for event in outcome.events}

    assert kinds & {"fault", "refused", "black hole"}
    assert simulate(program, network=network).value == b"HELLO\n"


def test_latency_takes_virtual_time() -> None:
    """Connecting, each way and the end take the declared time, exactly."""
    network = Network(latency=(0.25, 0.25))

    outcome = simulate(on_server(ask), network=network)

    assert outcome.value == b"HELLO\n"
    assert outcome.now == 1.0


def test_segments_are_cut_as_chosen() -> None:
    """What was written at once may arrive in pieces, and all of it arrives."""

    async def program() -> list[int]:
        loop = asyncio.get_running_loop()
        sizes: list[int] = []

        class Sizes(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                sizes.append(len(data))

        server = await loop.create_server(Sizes, *WHERE)
        client, _ = await loop.create_connection(asyncio.Protocol, *WHERE)
        client.write(bytes(1000))
        client.close()
        await current().settle()
        server.close()
        return sizes

    assert simulate(program).value == [1000]
    cut = [
        simulate(program, choices=Choices(environment=bytes([0] * 6 + [n]))).value for n in (1, 2)
    ]
    assert all(sum(sizes) == 1000 for sizes in cut)
    seeds = [simulate(program, seed=seed).value for seed in range(30)]
    assert any(len(sizes) > 1 for sizes in seeds)
    assert simulate(program, seed=3, network=Network(cut=False)).value == [1000]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda loop: loop.create_server(Recorder, *WHERE, ssl=True), r"create_server\(ssl=...\)"),
        (lambda loop: loop.create_connection(Recorder, sock=1), r"create_connection\(sock=...\)"),
        (lambda loop: loop.create_unix_server(Recorder, "x"), "create_unix_server"),
        (lambda loop: loop.start_tls(None, None, None), "start_tls"),
    ],
)
def test_network_refuses_what_it_cannot_do(call: Callable[[Any], Any], message: str) -> None:
    """TLS, existing sockets and Unix sockets are refused by name."""

    async def program() -> None:
        await call(asyncio.get_running_loop())

    with pytest.raises(SimulationError, match=message):
        simulate(program)


def test_network_refuses_an_argument_that_does_not_exist() -> None:
    """A misspelt argument is an error, as with asyncio."""

    async def program() -> None:
        loop: Any = asyncio.get_running_loop()
        await loop.create_server(Recorder, *WHERE, reuse_adress=True)

    with pytest.raises(TypeError, match="'reuse_adress'"):
        simulate(program)


def test_network_settings_are_checked() -> None:
    """Unknown faults and impossible latencies are refused with what there is."""
    with pytest.raises(ValueError, match=r"unknown faults \['rain'\], expected some of refuse"):
        Network(faults=("rain",))
    with pytest.raises(ValueError, match="least <= most"):
        Network(latency=(2.0, 1.0))


def keep(*actions: Callable[[Any], object]) -> Callable[[Any], bool]:
    """React with several actions, and stay half open."""

    def react(transport: Any) -> bool:
        for action in actions:
            action(transport)
        return True

    return react


def close(transport: Any) -> None:
    """React by closing."""
    transport.close()


def write(data: bytes) -> Callable[[Any], object]:
    """React by writing."""
    return lambda transport: transport.write(data)


def write_eof(transport: Any) -> None:
    """React by closing the sending direction."""
    transport.write_eof()


def rest(transport: Any) -> None:
    """React by not reading for a while."""
    transport.pause_reading()
    asyncio.get_running_loop().call_later(0.02, transport.resume_reading)


PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "echo and close": ({"made": write(b"hello"), "data": close}, {"data": write(b"world")}),
    "close at once": ({"made": keep(write(b"hello"), close)}, {}),
    "half close": (
        {"made": keep(write(b"ask"), write_eof)},
        {"eof": keep(write(b"answer"), close)},
    ),
    "end of file closes": ({"made": write_eof}, {}),
    "server closes": ({}, {"made": close}),
    "both write": ({"made": write(b"one"), "data": close}, {"made": write(b"two")}),
    "reader that stalls": ({"made": keep(write(bytes(50_000)), close)}, {"made": rest}),
}


async def converse(name: str, port: int) -> tuple[Log, Log]:
    """Run one pair of protocols to its end, on whatever loop is running."""
    ours, theirs = PAIRS[name]
    loop = asyncio.get_running_loop()
    far: list[Recorder] = []

    def accept() -> Recorder:
        far.append(Recorder(**theirs))
        return far[-1]

    server = await loop.create_server(accept, "127.0.0.1", port)
    port = server.sockets[0].getsockname()[1]
    _, near = await loop.create_connection(lambda: Recorder(**ours), "127.0.0.1", port)
    for _ in range(40):
        await asyncio.sleep(0.005)
        if far and far[0].log[-1][0] == near.log[-1][0] == "lost":
            break
    server.close()
    return near.log, far[0].log


@pytest.mark.parametrize("name", PAIRS)
def test_network_behaves_as_loopback_tcp(name: str) -> None:
    """The same program has the same transcript on a real loop and in the simulation."""
    with asyncio.Runner() as runner:
        real = runner.run(converse(name, 0))

    assert simulate(lambda: converse(name, 0)).value == real
    # Uncut: some of these protocols close at the first byte.
    network = Network(cut=False)
    for seed in range(20):
        assert simulate(lambda: converse(name, 0), seed=seed, network=network).value == real
