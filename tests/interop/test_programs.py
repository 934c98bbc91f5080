"""The programs: found or asked for, started, and ended in every case."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import proxies as support
from muxleak_scenarios.real.programs import FINDERS, INSTALL, Program
from processes import REQUIRE, has_ended
from servers import echo
from socks import SocksConnection
from source_roots import PYTHONPATH

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxies import Proxies

    Start = Callable[..., Awaitable[Any]]

ROOT = Path(__file__).parents[2]
INTERRUPTED = """
import os, signal

import pytest
from proxies import Proxies


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    with Proxies(tmp_path_factory.mktemp("servers")) as proxies:
        yield proxies


def test_interrupted(servers, tmp_path):
    with Proxies(tmp_path) as proxies:
        server = servers.server("sing-box")
        client = proxies.client("v2ray", server.address)
        print("pids", server.process.pid, client.process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        client.process.wait()
"""


def missing(_path: str | None) -> Program:
    """Fail as a finder does on a machine without the program."""
    raise FileNotFoundError("no such program")


@pytest.mark.parametrize("name", INSTALL)
def test_missing_program_skips_with_the_line_that_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing program skips its tests, with the command that installs it."""
    monkeypatch.setitem(FINDERS, name, missing)
    monkeypatch.delenv(REQUIRE, raising=False)

    with pytest.raises(pytest.skip.Exception, match=INSTALL[name]):
        support.find(name)


@pytest.mark.parametrize("name", INSTALL)
def test_missing_program_fails_where_it_is_required(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that continuous integration has installed must not be skipped unnoticed."""
    monkeypatch.setitem(FINDERS, name, missing)
    monkeypatch.setenv(REQUIRE, "other,interop")

    with pytest.raises(pytest.fail.Exception, match=INSTALL[name]):
        support.find(name)


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.timeout(30)
def test_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a test ends and reaps the programs of the test and of the session."""
    for name in INSTALL:
        support.find(name)
    (tmp_path / "test_interrupted.py").write_text(INTERRUPTED, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "test_interrupted.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{PYTHONPATH}{os.pathsep}{ROOT / 'tests' / 'support'}"},
        capture_output=True,
        text=True,
        check=False,
    )

    found = re.search(r"pids (\d+) (\d+)", run.stdout)
    assert found is not None, run.stdout
    assert "KeyboardInterrupt" in run.stdout
    assert run.returncode == pytest.ExitCode.INTERRUPTED
    for pid in found.groups():
        assert has_ended(int(pid))


def test_program_that_ends_at_its_start_is_told_with_what_it_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error has the program's own output, such as a refused configuration or a taken port."""
    program = Program("v2ray", "4", (sys.executable, "-c", "exit('no such option')"))
    monkeypatch.setitem(FINDERS, "v2ray", lambda _: program)

    with (
        support.Proxies(tmp_path) as proxies,
        pytest.raises(AssertionError, match=r"ended 3 times at its start\nno such option"),
    ):
        proxies.server("v2ray")

    assert [each.process.returncode for each in proxies.proxies] == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.timeout(30)
@pytest.mark.asyncio
@pytest.mark.parametrize(("version", "left"), [("V1", 1), ("fixed", 0)])
async def test_serve_counts_the_connections_of_v2ray(
    version: str, left: int, destination: Start, proxies: Proxies
) -> None:
    """`muxleak serve` with a real client: V1 leaks a task, and the command exits with 1."""
    _, address = await destination(echo)
    words = ("-m", "muxleak", "serve", "--json", "--version", version)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        first = await line(process)
        proxy = proxies.client("v2ray", (first["host"], first["port"]))
        async with await SocksConnection.connect(proxy.address, address) as user:
            assert await user.ask(b"hello", 5) == b"hello"
        proxy.kill()
        status = await line(process)
        while not status["accepted"] or status["open"]:
            status = await line(process)
        process.send_signal(signal.SIGINT)
        while status["event"] != "stopped":
            status = await line(process)
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()

    assert (status["accepted"], status["report"]["total"], code) == (1, left, left)


async def line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """Read the next line."""
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(await process.stdout.readline())
    return found
