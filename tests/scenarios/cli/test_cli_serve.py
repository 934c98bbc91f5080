"""``muxleak serve``: the server on a port, what it counts, and how it ends."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, cast
from urllib.request import urlopen
from uuid import UUID

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from muxleak import LeakReport, Ledger, Monitor
from muxleak.monitor import KINDS
from muxleak_scenarios.cli import cli, render, serve
from muxleak_scenarios.cli.params import Listen
from muxleak_scenarios.cli.serve import USER
from muxleak_scenarios.cli.serve_status import ServerStatus, ServerWatch, TextScreen, clients
from muxleak_vless import Client, Inbound, Limits, Outbound
from source_roots import PYTHONPATH

ROOT = Path(__file__).parents[3]
CONNECTIONS = 5


def invoke(*words: str) -> Result:
    """Run ``serve`` in this process, at 80 columns."""
    return CliRunner().invoke(cli, ["serve", *words], env={"COLUMNS": "80"})


def read(text: str) -> list[dict[str, Any]]:
    """Read JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


class Running:
    """The real program in a process, serving."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.first = self.next()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self.first["host"], self.first["port"]

    def next(self) -> dict[str, Any]:
        """Wait for the next line."""
        assert self.process.stdout is not None
        line: dict[str, Any] = json.loads(self.process.stdout.readline())
        return line

    def until(self, **wanted: int) -> dict[str, Any]:
        """Read lines until one has the counts that are wanted."""
        while True:
            line = self.next()
            assert line["event"] == "status", line
            if wanted.items() <= line.items():
                return line

    def stop(self) -> tuple[list[dict[str, Any]], str]:
        """Press Ctrl-C; return the lines that follow, and stderr."""
        self.process.send_signal(signal.SIGINT)
        stdout, stderr = self.process.communicate(timeout=10)
        return read(stdout), stderr


@contextmanager
def serving(*words: str) -> Iterator[Running]:
    """Run the real program for the length of a block."""
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "muxleak", "serve", "--json", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


def fetch(url: str) -> str:
    """Read a page."""
    with urlopen(url) as page:  # noqa: S310 - a server of our own
        return str(page.read().decode())


async def connect_and_close(address: tuple[str, int], times: int) -> None:
    """Open and close mux connections, one after another."""
    for _ in range(times):
        async with await Client.connect(address, UUID(USER)):
            pass


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.org:0"])
def test_serve_refuses_addresses_that_others_can_reach(address: str) -> None:
    """A test server without TLS is not put on the internet by a slip."""
    result = invoke("--listen", address)

    assert result.exit_code == 2
    assert "test server without TLS" in result.stderr
    assert "--public" in result.stderr


@pytest.mark.parametrize("address", ["8443", "127.0.0.1", ":8443", "127.0.0.1:x", "::1:70000"])
def test_serve_tells_what_an_address_looks_like(address: str) -> None:
    """Bad notation is bad usage, with an example."""
    result = invoke("--listen", address)

    assert result.exit_code == 2
    assert "expected HOST:PORT with a port of 0 to 65535, such as 127.0.0.1:8443" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--version", "V9"),
        ("--version", "live_id_reused/green"),
        ("--user", "me"),
        ("--seconds", "-1"),
    ],
)
def test_serve_rejects_what_it_does_not_know(words: tuple[str, str]) -> None:
    """Unknown versions, users that are no UUID, times that cannot be."""
    result = invoke(*words)

    assert result.exit_code == 2
    assert words[0] in result.stderr


def test_serve_tells_that_a_port_is_taken() -> None:
    """An address that cannot be bound is bad usage, with the reason and a way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = invoke("--listen", f"127.0.0.1:{taken.getsockname()[1]}")

    assert result.exit_code == 2
    assert "already in use" in result.stderr
    assert "port 0 for any free one" in result.stderr


def test_serve_tells_how_to_reach_it() -> None:
    """Address, user, and outbounds to paste; nobody came, so nothing was left."""
    result = invoke("--version", "v2", "--seconds", "0")

    assert result.exit_code == 0
    assert result.stdout.startswith("V2 listens on 127.0.0.1:")
    assert f"user {USER}" in result.stdout
    assert '"protocol": "vless"' in result.stdout
    assert '"packet_encoding": "xudp"' in result.stdout
    assert "open 0  accepted 0  mux sessions 0  tasks +0" in result.stdout
    assert "clean: 0 closed connections, no task left" in result.stdout


@pytest.mark.parametrize(
    ("word", "served"),
    [("live_id_reused/fixed", "live_id_reused/fixed"), ("live_id_reused", "live_id_reused/buggy")],
)
def test_serve_serves_a_half_of_a_pair(word: str, served: str) -> None:
    """The one that is named, or else the buggy one."""
    result = invoke("--version", word, "--seconds", "0")

    assert result.exit_code == 0
    assert result.stdout.startswith(f"{served} listens on 127.0.0.1:")


@pytest.mark.parametrize(("words", "least"), [((), 30.0), (("--no-limits",), 1e7)])
def test_serve_waits_for_ever_if_told_to(
    words: tuple[str, ...], least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits of inbound and outbound are the same, and those of waiting far away or not."""
    given: list[Limits] = []

    class Recorded(Inbound):
        def __init__(self, *args: Any, limits: Limits, **more: Any) -> None:
            given.append(limits)
            super().__init__(*args, limits=limits, **more)

    class Out(Outbound):
        def __init__(self, *, limits: Limits) -> None:
            given.append(limits)
            super().__init__(limits=limits)

    monkeypatch.setattr(serve, "Inbound", Recorded)
    monkeypatch.setattr(serve, "Outbound", Out)

    assert invoke("--seconds", "0", *words).exit_code == 0
    outbound, inbound = given
    assert outbound == inbound
    waits = (inbound.write_seconds, inbound.stall_seconds, inbound.idle_seconds)
    assert all(least <= each for each in waits)
    assert (max(waits) > 1000) == bool(words)
    assert inbound.close_seconds == 1.0


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:0"])
def test_serve_debugs_on_loopback_only(address: str) -> None:
    """There is no password, so there is no way to ask for more."""
    result = invoke("--debug", address)

    assert result.exit_code == 2
    assert "--debug" in result.stderr
    assert "expected a loopback address" in result.stderr


def test_serve_tells_where_its_tasks_are_listed() -> None:
    """The address that it was given, with the port chosen."""
    text = invoke("--seconds", "0", "--debug", "127.0.0.1:0").stdout
    (first, *_) = read(invoke("--seconds", "0", "--debug", "[::1]:0", "--json").stdout)

    assert "its tasks: http://127.0.0.1:" in text
    assert first["debug"].startswith("http://[::1]:")


def test_serve_json_is_one_object_per_line() -> None:
    """First how to reach it, then the counts, then the report."""
    other = "5b1d2c3e-0a1b-4c2d-8e3f-112233445566"
    result = invoke("--version", "fixed", "--seconds", "0", "--json", "--user", other)
    first, *_, last = lines = read(result.stdout)

    assert [line["event"] for line in lines] == ["listening", "status", "stopped"]
    assert (first["version"], first["users"]) == ("REF", [other])
    assert first["clients"]["sing-box"]["server_port"] == first["port"]
    assert (last["report"]["total"], last["report"]["groups"]) == (0, [])


def test_clients_are_given_the_address_as_they_write_it() -> None:
    """An IPv6 host goes without brackets into a configuration, and with them into text."""
    listen = Listen("::1", 8443)
    found = clients(listen, UUID(USER))

    assert str(listen) == "[::1]:8443"
    assert found["sing-box"]["server"] == "::1"
    assert found["v2ray"]["settings"]["vnext"][0]["address"] == "::1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - nothing listens
def test_clients_are_not_given_all_addresses(host: str) -> None:
    """They are no address of this machine's."""
    found = clients(Listen(host, 8443), UUID(USER))

    assert found["sing-box"]["server"] == "<an address of this machine>"
    assert found["v2ray"]["settings"]["vnext"][0]["address"] == found["sing-box"]["server"]


def test_status_tells_growth_per_closed_connection() -> None:
    """What is open does not count as closed; without a closed connection there is no growth."""
    assert ServerStatus(open=2, accepted=6, sessions=2, tasks=8, left=4).growth == 1.0
    assert ServerStatus(open=2, accepted=2, sessions=2, tasks=4, left=0).growth == 0.0


def test_status_names_the_sites_that_climb() -> None:
    """At the end of the line, and only if there are any."""
    quiet = ServerStatus(open=0, accepted=1, sessions=0, tasks=1, left=1)

    assert str(quiet).endswith("left by closed 1 (1.00 each)")
    assert str(quiet._replace(climbing=("a.py:1 in f",))).endswith("  climbing: a.py:1 in f")


class Connection:
    """A link that stands, or not."""

    def __init__(self) -> None:
        self.transport: object = None


class Accepting:
    """An inbound whose connections a test makes."""

    accepted = active = 0

    def __init__(self) -> None:
        self.links: list[Connection] = []

    def protocol(self) -> Connection:
        """Make one, as for a connection that has been accepted."""
        self.links.append(Connection())
        self.accepted += 1
        return self.links[-1]


@pytest.mark.asyncio
async def test_watch_counts_the_tasks_of_connections_that_have_closed() -> None:
    """Not those that were there before; one that is about to open is neither open nor closed."""
    never = asyncio.Event()
    before = asyncio.create_task(never.wait())
    ledger, inbound = Ledger(KINDS), Accepting()
    with ledger.watching(asyncio.get_running_loop()), Monitor(ledger, interval=None) as monitor:
        kept = asyncio.create_task(never.wait())
        watch = ServerWatch(ledger, cast("Inbound", inbound), monitor)
        make = ledger.scoped_factory(watch.protocol)
        tasks = []
        for _ in range(3):
            scope = ledger.scope("connection")
            with scope:
                make()
        assert watch.status()[:5] == (0, 3, 0, 0, 0)

        for scope, link in zip(list(watch._links), inbound.links, strict=True):
            link.transport = link
            with scope:
                tasks.append(asyncio.create_task(never.wait()))
        assert watch.status()[:5] == (3, 3, 0, 3, 0)
        inbound.links[0].transport = inbound.links[1].transport = None
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        assert watch.status()[:5] == (1, 3, 0, 2, 1)
        assert len(watch.leaked()) == 1
        assert len(watch._links) == 2
        for each in (before, kept, *tasks):
            each.cancel()


@pytest.mark.parametrize("terminal", [False, True])
def test_screen_for_people_tells_what_changes(
    monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> None:
    """A line for each change; on a terminal one that is renewed, and given back at the end."""
    console = Console(file=StringIO(), width=200, force_terminal=terminal, color_system=None)
    monkeypatch.setattr(render, "stdout", lambda: console)
    none = ServerStatus(open=0, accepted=2, sessions=0, tasks=0, left=0)
    with TextScreen() as screen:
        screen.listening("V1", Listen("127.0.0.1", 1), (UUID(USER),), None)
        for status in (none, none, none._replace(tasks=1, left=1)):
            screen.show(status)
        assert (screen._live is not None) is terminal
    assert screen._live is None or not screen._live.is_started
    screen.stopped(none, LeakReport.of([]), 0)
    told = cast("StringIO", console.file).getvalue()

    assert "user 00112233-4455-6677-8899-aabbccddeeff" in told
    assert told.endswith("\nclean: 2 closed connections, no task left\n")
    if not terminal:
        assert told.count("left by closed 0 (0.00 each)") == 1
        assert told.count("left by closed 1 (0.50 each)") == 1


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("prometheus_client") is None, reason="needs: pip install 'muxleak[prometheus]'"
)
def test_serve_lists_its_tasks_over_http() -> None:
    """Five mux connections come and go: their watchers stand at one stack, and nothing else."""
    with serving("--version", "V1", "--debug", "127.0.0.1:0") as server:
        asyncio.run(connect_and_close(server.address, CONNECTIONS))
        server.until(accepted=CONNECTIONS, open=0)
        text = fetch(server.first["debug"] + "/debug/tasks")
        metrics = fetch(server.first["debug"] + "/metrics")
        server.stop()

    assert text.startswith(f"goroutine profile: total {CONNECTIONS}\n{CONNECTIONS} @ 0x")
    assert '"task":"MuxSession._watch"' in text
    assert "\tContext.wait+0x" in text
    assert "muxleak_connections_ended_total " in metrics


@pytest.mark.slow
def test_serve_shows_the_leak_grow_and_exits_with_1() -> None:
    """Five mux connections come and go: V1 keeps five tasks, all at one place."""
    with serving("--version", "V1", "--seconds", "3") as server:
        asyncio.run(connect_and_close(server.address, CONNECTIONS))
        grown = server.until(accepted=CONNECTIONS, open=0)
        stdout, stderr = server.process.communicate(timeout=15)
        last = read(stdout)[-1]

    assert (grown["tasks"], grown["left"], grown["growth"]) == (CONNECTIONS, CONNECTIONS, 1.0)
    assert [group["count"] for group in last["report"]["groups"]] == [CONNECTIONS]
    assert last["left_after_shutdown"] == 0
    assert (server.process.returncode, stderr) == (1, "")


@pytest.mark.slow
def test_serve_fixed_keeps_nothing_and_exits_with_0() -> None:
    """The same connections leave nothing in the reference."""
    with serving("--version", "fixed", "--seconds", "3") as server:
        asyncio.run(connect_and_close(server.address, CONNECTIONS))
        grown = server.until(accepted=CONNECTIONS, open=0)
        stdout, stderr = server.process.communicate(timeout=15)

    assert (grown["tasks"], grown["left"]) == (0, 0)
    assert read(stdout)[-1]["report"]["total"] == 0
    assert (server.process.returncode, stderr) == (0, "")


@pytest.mark.slow
def test_serve_interrupted_twice_ends_at_once() -> None:
    """While the server waits for what it closes, a second Ctrl-C does not."""

    async def scenario(server: Running) -> str:
        async with await Client.connect(server.address, UUID(USER)):
            await asyncio.to_thread(server.until, open=1)
            # Two that come at once are one: the second may have to be said again.
            while server.process.poll() is None:
                server.process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    await asyncio.to_thread(server.process.wait, 0.1)
            return (await asyncio.to_thread(server.process.communicate))[1]

    # V1 leaves transports open: its shutdown takes the whole close limit.
    with serving("--version", "V1") as server:
        stderr = asyncio.run(scenario(server))

    assert (server.process.returncode, stderr) == (130, "interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize(("version", "code"), [("V1", 1), ("fixed", 0)])
def test_serve_interrupted_reports_and_counts_no_open_connection(version: str, code: int) -> None:
    """Ctrl-C with a connection open: its tasks are no leak; those of a closed one are."""

    async def scenario(server: Running) -> tuple[list[dict[str, Any]], str]:
        await connect_and_close(server.address, 1)
        async with await Client.connect(server.address, UUID(USER)):
            await asyncio.to_thread(server.until, accepted=2, open=1)
            return await asyncio.to_thread(server.stop)

    with serving("--version", version) as server:
        lines, stderr = asyncio.run(scenario(server))

    assert lines[-1]["event"] == "stopped"
    assert (lines[-1]["open"], lines[-1]["report"]["total"]) == (1, code)
    assert lines[-1]["left_after_shutdown"] == 0
    assert (server.process.returncode, stderr) == (code, "")
