"""The debug endpoint: what it tells, in which form, to whom, and within which bounds."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from http.client import HTTPConnection
from typing import NamedTuple

import pytest

from loops import REAL
from muxleak import Monitor
from muxleak.monitor import endpoint, profile

BLOCK = re.compile(r"(\d+) @((?: 0x[0-9a-f]+)*)\n# labels: (\{.*\})\n((?:#\t.*\n)*)\n")
FRAME = re.compile(r"#\t(0x[0-9a-f]+)\t(\S+)\+0x[0-9a-f]+\t(\S+):(\d+)\n")


class Group(NamedTuple):
    """A block of the text."""

    tasks: int
    labels: dict[str, str]
    functions: list[str]


def parse(text: str) -> list[Group]:
    """Read the text as a reader of Go's would; every character is accounted for."""
    head, _, rest = text.partition("\n")
    found = []
    for count, addresses, labels, lines in BLOCK.findall(rest):
        frames = FRAME.findall(lines)
        assert [frame[0] for frame in frames] == addresses.split()
        found.append(Group(int(count), json.loads(labels), [frame[1] for frame in frames]))
    assert BLOCK.sub("", rest) == ""
    assert head == f"goroutine profile: total {sum(group.tasks for group in found)}"
    return found


class Answer(NamedTuple):
    """Of the endpoint."""

    status: int
    headers: dict[str, str]
    text: str


def ask(address: tuple[str, int], path: str, method: str = "GET") -> Answer:
    """Ask, from a thread."""
    with closing(HTTPConnection(*address, timeout=10)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        return Answer(response.status, dict(response.headers), response.read().decode())


async def raw(address: tuple[str, int], request: bytes) -> bytes:
    """Send bytes and read to the end."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def inner() -> None:
    """Wait."""
    await asyncio.Event().wait()


async def outer() -> None:
    """Wait through another function."""
    await inner()


def run(
    program: Callable[[Monitor, tuple[str, int]], Awaitable[object]],
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop,
) -> None:
    """Run a program under a monitor that listens."""

    async def main() -> None:
        with Monitor(interval=None) as monitor:
            await program(monitor, await monitor.listen())

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@REAL
def test_endpoint_lists_the_tasks_by_stack(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Groups with their count, largest first, innermost frame first; the same for Go's path."""

    async def program(_monitor: Monitor, address: tuple[str, int]) -> None:
        tasks = [asyncio.create_task(outer()) for _ in range(3)] + [asyncio.create_task(inner())]
        await asyncio.sleep(0)
        answer = await asyncio.to_thread(ask, address, "/debug/tasks")
        go = await asyncio.to_thread(ask, address, "/debug/pprof/goroutine?debug=1")
        three, one = parse(answer.text)
        for task in tasks:
            task.cancel()
        assert (three.tasks, three.functions) == (3, ["Event.wait", "inner", "outer"])
        assert (one.tasks, one.functions) == (1, ["Event.wait", "inner"])
        assert three.labels["task"] == "outer"
        assert re.fullmatch(
            r".*test_monitor_endpoint.py:\d+ in .*program", one.labels["created_by"]
        )
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert go.text == answer.text

    run(program, new_loop)


@REAL
def test_endpoint_does_not_show_itself(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Neither its tasks nor its transports, not even while a connection is open."""

    async def program(monitor: Monitor, address: tuple[str, int]) -> None:
        monitor.sample()
        before = monitor.status(), monitor.sites()
        _, writer = await asyncio.open_connection(*address)
        for _ in range(3):
            answer = await asyncio.to_thread(ask, address, "/debug/tasks")
            assert parse(answer.text) == []
        monitor.sample()
        # The one transport is the client's, which is in this process.
        assert monitor.status() == before[0]._replace(transports=1)
        assert monitor.sites() == before[1] == []
        assert monitor.ledger.count == 0
        writer.close()
        await writer.wait_closed()

    run(program, new_loop)


def test_profile_reads_no_more_stacks_than_it_may() -> None:
    """What is above the limit is counted all the same, where it was made."""

    async def program(monitor: Monitor, _address: object) -> None:
        tasks = list(map(asyncio.create_task, [outer() for _ in range(10)]))
        await asyncio.sleep(0)
        rest, read = parse(profile.profile(monitor.ledger.root, max_stacks=4))
        for task in tasks:
            task.cancel()
        assert (read.tasks, read.functions[-1]) == (4, "outer")
        assert (rest.tasks, rest.functions[0].rpartition(".")[2]) == (6, "program")
        assert "too many tasks" in rest.labels["stack"]

    run(program)


def test_profile_is_the_same_in_another_process() -> None:
    """Addresses are made of text."""
    code = (
        "import asyncio\nfrom muxleak import Monitor\n"
        "async def wait(): await asyncio.Event().wait()\n"
        "async def main():\n"
        "    with Monitor(interval=None) as m:\n"
        "        task = asyncio.create_task(wait()); await asyncio.sleep(0); print(m.profile())\n"
        "asyncio.run(main())\n"
    )
    texts = [
        subprocess.run(  # noqa: S603 - our own code
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in "12"
    ]

    assert texts[0] == texts[1]
    assert texts[0].startswith("goroutine profile: total 1\n1 @ 0x")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])  # noqa: S104 - refused
def test_endpoint_refuses_addresses_that_others_can_reach(host: str) -> None:
    """And says why, and what to give if it is meant."""

    async def program(monitor: Monitor) -> None:
        with pytest.raises(ValueError, match=r"without a password.*pass public=True"):
            await monitor.listen(host)

    async def main() -> None:
        with Monitor(interval=None) as monitor:
            await program(monitor)

    asyncio.run(main())


def test_endpoint_listens_anywhere_if_told_so() -> None:
    """Once for each monitor, and only while it is installed."""

    async def main() -> None:
        with Monitor(interval=None) as monitor:
            host, port = await monitor.listen("0.0.0.0", public=True)  # noqa: S104 - what is tested
            with pytest.raises(RuntimeError, match="does not listen yet"):
                await monitor.listen()
            assert (await asyncio.to_thread(ask, ("127.0.0.1", port), "/debug/tasks")).status == 200
            assert host == "0.0.0.0"  # noqa: S104 - as above
        with pytest.raises(RuntimeError, match="an installed monitor"):
            await monitor.listen()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(main())


@pytest.mark.asyncio
async def test_endpoint_ends_with_its_monitor_and_begins_again_with_it() -> None:
    """Connections that are open end, too; a monitor that is installed again may listen again."""
    monitor = Monitor(interval=None)
    for _ in range(2):
        with monitor:
            address = await monitor.listen()
            answer = await asyncio.to_thread(ask, address, "/debug/tasks")
            reader, writer = await asyncio.open_connection(*address)
            # Accepted, for the other one that came later has been answered.
            assert (await asyncio.to_thread(ask, address, "/debug/tasks")).text == answer.text
        async with asyncio.timeout(endpoint.TIMEOUT / 2):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()


@pytest.mark.asyncio
async def test_endpoint_tells_that_a_page_failed() -> None:
    """To who asks; it goes on."""

    def fails() -> endpoint.Page:
        raise ValueError("no figures")

    loop = asyncio.get_running_loop()
    served = endpoint.Endpoint(loop, {"/": fails, "/well": lambda: endpoint.Page(b"well")})
    address = await served.listen("127.0.0.1", 0)
    failed = await raw(address, b"GET / HTTP/1.1\r\n\r\n")
    well = await raw(address, b"GET /well?now HTTP/1.1\r\n\r\n")
    served.close()

    assert failed.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b"ValueError('no figures')" in failed
    assert well.endswith(b"\r\n\r\nwell")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /debug/tasks HTTP/1.1\r\n\r\n", b"405 Method Not Allowed\r\n"),
        (b"HEAD /debug/tasks HTTP/1.1\r\n\r\n", b"405 Method Not Allowed\r\n"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found\r\n"),
        (b"GET http://[ HTTP/1.1\r\n\r\n", b"403 Forbidden\r\n"),
        (b"GET http://localhost/x HTTP/1.1\r\n\r\n", b"404 Not Found\r\n"),
        (b"\x16\x03\x01 hello\r\n\r\n", b"400 Bad Request\r\n"),
        (b"GET /debug/tasks SMTP\r\n\r\n", b"400 Bad Request\r\n"),
        (b"GET /" + b"x" * 9000, b"431 Request Header Fields Too Large\r\n"),
        (b"GET /debug/tasks HTTP/1.0\r\nHost: localhost\r\n\r\nmore", b"200 OK\r\n"),
        (b"GET /debug/tasks HTTP/1.1\r\nHost\r\n\r\n", b"400 Bad Request\r\n"),
        (b"GET /debug/tasks HTTP/1.1\r\n: x\r\n\r\n", b"400 Bad Request\r\n"),
        (b"GET /debug/tasks HTTP/1.1\r\nX: a\r\n Host: x\r\n\r\n", b"400 Bad Request\r\n"),
        (b"GET /debug/tasks HTTP/1.1\r\nHost : x\r\n\r\n", b"400 Bad Request\r\n"),
        (
            b"GET /debug/tasks HTTP/1.1\r\nHost: localhost\r\nHost: x\r\n\r\n",
            b"400 Bad Request\r\n",
        ),
        (b"\r\n\r\n", b"400 Bad Request\r\n"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", b"431 Request Header"),
    ],
)
def test_endpoint_answers_what_it_does_not_serve(request_: bytes, status: bytes) -> None:
    """With the status that says so, and then it closes."""

    async def program(_monitor: Monitor, address: tuple[str, int]) -> None:
        answer = await raw(address, request_)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert (b"Allow: GET\r\n" in answer) == status.startswith(b"405")

    run(program)


def test_endpoint_answers_a_request_in_pieces() -> None:
    """However it is cut."""

    async def program(_monitor: Monitor, address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        for each in b"GET /debug/tasks HTTP/1.1\r\nHost: localhost\r\n\r\n":
            writer.write(bytes([each]))
            await asyncio.sleep(0)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()

    run(program)


def test_endpoint_ends_a_silent_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within its limit."""
    monkeypatch.setattr(endpoint, "TIMEOUT", 0.01)

    async def program(_monitor: Monitor, address: tuple[str, int]) -> None:
        assert await raw(address, b"GET /debug") == b""

    run(program)


@pytest.mark.parametrize("sent", [b"", b"GET /debug/tasks HTTP/1.1\r\nHost: loc"])
@REAL
def test_endpoint_answers_beside_idle_connections(
    sent: bytes, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """The oldest that has not sent its request is ended; there are never more than the limit."""

    async def program(_monitor: Monitor, address: tuple[str, int]) -> None:
        idle = []
        for _ in range(2 * endpoint.MAX_CONNECTIONS):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(sent)
            idle.append((reader, writer))
        for _ in range(3):
            answer = await raw(address, b"GET /debug/tasks HTTP/1.1\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        ended = idle[: endpoint.MAX_CONNECTIONS]
        for reader, _ in ended:
            with suppress(ConnectionError):
                assert await reader.read() == b""
        assert not any(reader.at_eof() for reader, _ in idle[-endpoint.MAX_CONNECTIONS + 3 :])
        for _, writer in idle:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    run(program, new_loop)


def test_endpoint_bounds_connections_that_do_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused, and closed; when one has gone, there is room again."""
    monkeypatch.setattr(endpoint, "MAX_CONNECTIONS", 1)
    large = endpoint.Page(bytes(1 << 24))

    async def main() -> None:
        served = endpoint.Endpoint(asyncio.get_running_loop(), {"/": lambda: large})
        address = await served.listen("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.readexactly(15)
        refused = await raw(address, b"GET / HTTP/1.1\r\n\r\n")
        assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        again = await raw(address, b"GET / HTTP/1.1\r\n\r\n")
        assert again.startswith(b"HTTP/1.1 200 OK\r\n")
        served.close()

    asyncio.run(main())


FOREIGN = [
    "Host: rebind.test",
    "Host: rebind.test:6060",
    "Host: localhost.rebind.test",
    "Host: 127.0.0.1.rebind.test",
    "Host: localhost@rebind.test",
    "Host: rebind.test@localhost",
    "Host: rebind.test#localhost",
    "Host: 127.0.0.2",
    "Host: [::2]:80",
    "Host: ",
    "Host: localhost, rebind.test",
    "Origin: http://rebind.test",
    "Origin: null",
    "Origin: ",
    "Host: localhost\r\nOrigin: http://rebind.test:80",
    "Host: rebind.test\r\nOrigin: http://localhost",
]
OWN = [
    "Host: localhost",
    "Host: LocalHost.:6060",
    "Host: 127.0.0.1",
    "host:127.0.0.1:6060",
    "Host: [::ffff:127.0.0.1]",
    "Host: metrics.example:9",
    "Host: [2001:db8:0::1]",
    "Origin: http://localhost:3000",
    "Host: 127.0.0.1\r\nOrigin: https://metrics.example",
]


@pytest.mark.parametrize(
    ("headers", "status"), [*((each, 403) for each in FOREIGN), *((each, 200) for each in OWN)]
)
def test_endpoint_refuses_foreign_hosts_and_origins(headers: str, status: int) -> None:
    """A page under another name, which leads to this address, reads nothing."""

    async def main() -> None:
        with Monitor(interval=None) as monitor:
            address = await monitor.listen(hosts=["Metrics.Example", "2001:db8::1"])
            for path in ("/debug/tasks", "/debug/pprof/goroutine", "/metrics", "/"):
                request = f"GET {path} HTTP/1.1\r\n{headers}\r\n\r\n"
                answer = await raw(address, request.encode())
                # 501 if prometheus_client is not installed.
                allowed = {"/": [b"404"], "/metrics": [b"200", b"501"]}.get(path, [b"200"])
                expected = [b"403"] if status == 403 else allowed
                assert answer.split()[1] in expected
                assert (b"Monitor.listen(hosts=[...])" in answer) == (status == 403)
            target = "http://rebind.test/debug/tasks" if status == 403 else "http://localhost/"
            answer = await raw(address, f"GET {target} HTTP/1.1\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 403 " if status == 403 else b"HTTP/1.1 404 ")

    asyncio.run(main())


def test_endpoint_for_all_addresses_knows_the_one_that_was_called() -> None:
    """A scraper that calls an address of the machine sends it as the host."""

    async def main() -> None:
        with Monitor(interval=None) as monitor:
            _, port = await monitor.listen("0.0.0.0", public=True)  # noqa: S104 - what is tested
            for host, status in (("127.0.0.1", 200), ("127.0.0.2", 403), ("0.0.0.0", 200)):  # noqa: S104 - the same
                request = f"GET /debug/tasks HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
                answer = await raw(("127.0.0.1", port), request.encode())
                assert answer.startswith(f"HTTP/1.1 {status} ".encode())

    asyncio.run(main())


def test_listen_takes_names_of_hosts_only() -> None:
    """One text is a usual mistake for a list of one."""

    async def main() -> None:
        with Monitor(interval=None) as monitor:
            with pytest.raises(TypeError, match=r"hosts: expected a list of names, got the text"):
                await monitor.listen(hosts="metrics.example")
            with pytest.raises(ValueError, match="hosts: expected names such as"):
                await monitor.listen(hosts=["http://metrics.example"])

    asyncio.run(main())
