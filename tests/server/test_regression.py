"""Written regression tests fail on the buggy server, and pass once it is fixed."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leaky_servers import MESSAGES, SERVERS
from muxleak import LeakError
from muxleak.server.check import search_server, server_subject
from muxleak.server.regression import NoTestError, regression_test

SOURCE = """
import asyncio
import logging
import leaky_servers

FIXED = {fixed}


async def half_close():
    return await asyncio.start_server(leaky_servers.HalfClose(fixed=FIXED).serve, "127.0.0.1", 0)


async def reset_in_write(host, port):
    return await asyncio.start_server(leaky_servers.ResetInWrite(fixed=FIXED).serve, host, port)


async def two_in_order():
    return await asyncio.start_server(leaky_servers.TwoInOrder(fixed=FIXED).serve, "127.0.0.1", 0)


async def stalled():
    stalled = leaky_servers.StalledReader(fixed=FIXED)
    return await asyncio.start_server(stalled.serve, "127.0.0.1", 0)


one_iteration = leaky_servers.OneIterationFixed if FIXED else leaky_servers.OneIteration


def shutdown():
    return leaky_servers.ShutdownInHandshake(fixed=FIXED).running()


class Divider:
    async def serve(self, reader, writer):
        line = await reader.readline()
        if line or not FIXED:
            writer.write(b"%d" % (10 // len(line)))
        writer.close()


async def plain(reader, writer):
    ticker = asyncio.create_task(leaky_servers.tick())
    try:
        await reader.read()
    except ConnectionError:
        pass
    if FIXED:
        ticker.cancel()
    writer.close()


reset = server = plain
check_server = two_in_order


class Logger:
    async def serve(self, reader, writer):
        try:
            await self.session(reader)
        except ValueError:
            logging.getLogger("served").exception("connection handler failed")
        finally:
            writer.close()

    async def session(self, reader):
        task, line = asyncio.create_task(self.fails()), b""
        try:
            line = await reader.readline()
        except ConnectionError:
            pass
        if FIXED or line != b"hello\\n":
            task.cancel()
        if line == b"hello\\n":
            raise ValueError("bad line")

    async def fails(self):
        await asyncio.sleep(0.01)
        raise LookupError("too late")


logs = Logger().serve


divider = Divider()
divide = divider.serve
"""


@pytest.fixture(autouse=True)
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of servers, as a user has it; calling it makes them fixed or not."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(*, fixed: bool) -> Any:
        sys.modules.pop("served", None)
        (tmp_path / "served.py").write_text(SOURCE.format(fixed=fixed))
        # A file that is changed within a second has the same stamp as its bytecode.
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return __import__("served")

    yield write
    sys.modules.pop("served", None)


def written(server: Any, name: str) -> str:
    """Search a server for its leak, and return the test for it."""
    subject = server_subject(server, messages=MESSAGES)
    subject.name = f"served:{name}"
    found = search_server(subject)
    assert found is not None
    return regression_test(subject, found, f"messages={MESSAGES!r}")


def run(text: str) -> None:
    """Run a written test."""
    space: dict[str, Any] = {"__name__": "written"}
    exec(compile(text, "written", "exec"), space)  # noqa: S102 - our own text
    next(call for name, call in space.items() if name.startswith("test_"))()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["half_close", "reset_in_write", "one_iteration", "shutdown", "reset", "server"]
)
def test_a_test_by_hand_fails_and_passes_with_the_fix(served: Any, name: str) -> None:
    """It uses asyncio's streams and `no_leaks`, and no search."""
    text = written(getattr(served(fixed=False), name), name)

    assert "check_server(" not in text
    assert "open_connection" in text
    with pytest.raises(LeakError, match="tick"):
        run(text)
    served(fixed=True)
    run(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two_in_order", "stalled", "check_server"])
def test_a_test_of_decisions_fails_and_passes_with_the_fix(served: Any, name: str) -> None:
    """A leak that has ended at the end, or needs time, is shown by the recorded decisions."""
    text = written(getattr(served(fixed=False), name), name)

    assert "open_connection" not in text
    assert 'replay="sim1:' in text
    with pytest.raises(LeakError, match=r"tick|tell"):
        run(text)
    served(fixed=True)
    run(text)


@pytest.mark.slow
def test_an_exception_of_a_handler_becomes_a_test(served: Any) -> None:
    """The report of asyncio fails the test; the object of a bound method is found by its name."""
    text = written(served(fixed=False).divide, "divide")

    with pytest.raises((LeakError, ZeroDivisionError)):
        run(text)
    served(fixed=True)
    run(text)


@pytest.mark.slow
def test_a_written_test_fails_though_log_records_are_kept(
    served: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A runner of tests keeps them, and so the failed task, which `no_leaks` then does not see."""
    text = written(served(fixed=False).logs, "logs")

    assert "check_server" in text
    with pytest.raises(LookupError, match="too late"):
        run(text)
    assert "bad line" in caplog.text
    served(fixed=True)
    run(text)


def test_a_server_without_a_name_has_no_test() -> None:
    """A function in a function cannot be imported."""
    subject = server_subject(SERVERS["half-close"][0], messages=MESSAGES)
    found = search_server(subject)
    assert found is not None

    with pytest.raises(NoTestError, match="can be imported by name"):
        regression_test(subject, found)
