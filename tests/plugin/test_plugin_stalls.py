"""A server that waits in vain for its connections: a report in place of a hang."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest

from muxleak.plugin import stalls

pytest_plugins = ["pytester"]

Project = Any  # conftest's; test folders are no packages, so that it cannot be imported

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 12),
    reason="needs Python 3.12: before, Server.wait_closed does not wait for connections",
)

SUITE = """
import asyncio
import subprocess
import sys

import pytest
import pytest_asyncio

CLIENTS = []

async def handle(reader, writer):
    await reader.read()
    writer.close()

@pytest_asyncio.fixture
async def server():
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    yield server
    server.close()
    print("waits", flush=True)
    await server.wait_closed()

@pytest.mark.asyncio
async def test_fixture(server):
    CLIENTS.append(await asyncio.open_connection(*server.sockets[0].getsockname()))

@pytest.mark.asyncio
async def test_body():
    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        CLIENTS.append(await asyncio.open_connection(*server.sockets[0].getsockname()))

@pytest.mark.asyncio
async def test_slow(server):
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    asyncio.get_running_loop().call_later(0.3, writer.close)
    CLIENTS.append(writer)

@pytest.mark.asyncio
async def test_process(server):
    host, port = server.sockets[0].getsockname()
    code = f"import socket, time; s = socket.create_connection(('{host}', {port})); time.sleep(0.8)"
    CLIENTS.append(subprocess.Popen([sys.executable, "-c", code]))
    while not server._active_count if hasattr(server, "_active_count") else not server._clients:
        await asyncio.sleep(0.01)

def test_next():
    for each in CLIENTS:
        if isinstance(each, subprocess.Popen):
            each.wait()
"""


@pytest.mark.parametrize("mode", ["strict", "warn"])
@pytest.mark.parametrize("name", ["test_fixture", "test_body"])
def test_wait_in_vain_is_reported(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str, mode: str
) -> None:
    """Both ends are named with their lines, and the tests after it run."""
    monkeypatch.setattr(stalls, "_PERIOD", 0.01)
    project.write(textwrap.dedent(SUITE))
    before = asyncio.base_events.Server.wait_closed

    result = project.run(f"--leaks={mode}", "-k", f"{name} or test_next")
    result.assert_outcomes(passed=1 if mode == "strict" else 2, failed=int(mode == "strict"))
    result.stdout.fnmatch_lines(
        [
            "*2 transports left behind*",
            "*1 x transport: accepted connection",
            "*1 x transport: connection",
            "*Server.wait_closed waited * in vain for these connections; aborted",
        ]
    )
    assert asyncio.base_events.Server.wait_closed is before


def test_wait_that_ends_is_no_leak(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that closes later, here or in another process, is waited for."""
    monkeypatch.setattr(stalls, "_PERIOD", 0.01)
    project.write(textwrap.dedent(SUITE))

    result = project.run("--leaks=strict", "-k", "test_slow or test_process or test_next")
    result.stdout.no_fnmatch_line("*wait_closed waited*")
    result.assert_outcomes(passed=3)


@pytest.mark.slow
def test_interrupt_shows_what_is_left(project: Project) -> None:
    """Ctrl-C in a teardown that hangs names the connections."""
    project.write(textwrap.dedent(SUITE))
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "--leaks=strict"]
    with subprocess.Popen(  # noqa: S603 - our own arguments
        [*command, "-k", "test_fixture"],
        cwd=project.path,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "waits" in line:
                break
        time.sleep(0.5)  # into the wait itself
        process.send_signal(signal.SIGINT)
        text = process.stdout.read()

    assert "interrupted: test_it.py::test_fixture" in text
    assert "1 x transport: accepted connection" in text
    assert "KeyboardInterrupt" in text
