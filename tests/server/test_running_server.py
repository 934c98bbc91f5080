"""`check_server` at a server that runs already, and the ways to count it."""

import asyncio
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

import watched_server
from muxleak import LeakError, Monitor, check_server, ignore_name
from muxleak.server.counts import CountedKey, CountError, counting, parse_profile
from muxleak.server.running import ServerEndedError
from muxleak.sim import Replay
from muxleak_scenarios.cli import cli

MESSAGES = [b"watch\n", b"hello\n", b"quit\n"]
SCRIPT = Path(watched_server.__file__)
linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc, as on Linux")


class Child(NamedTuple):
    """A server in a process of its own."""

    address: str
    url: str
    pid: int

    def ways(self, name: str) -> Any:
        """The ways to count it that a name means."""
        return {"pid": self.pid, "url": self.url, "both": [self.url, self.pid]}[name]


@contextmanager
def child(variant: str) -> Iterator[Child]:
    """Run a server in a process of its own."""
    command = [sys.executable, str(SCRIPT), variant]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(  # noqa: S603 - our own words
        command, stdout=subprocess.PIPE, stderr=quiet, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port, debug = process.stdout.readline().split()
            yield Child(f"127.0.0.1:{port}", f"http://127.0.0.1:{debug}", process.pid)
        finally:
            process.kill()


@contextmanager
def in_thread(server: Any, monitor: Monitor) -> Iterator[str]:
    """Run a server on a loop of another thread, watched by a monitor; yield its address."""
    loop = asyncio.new_event_loop()
    ready: list[str] = []
    started, end = threading.Event(), asyncio.Event()

    async def main() -> None:
        with monitor:
            async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
                ready.append(f"127.0.0.1:{listening.sockets[0].getsockname()[1]}")
                started.set()
                await end.wait()
            for each in asyncio.all_tasks() - {asyncio.current_task()}:
                each.cancel()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    try:
        assert started.wait(10)
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


@linux
@pytest.mark.slow
@pytest.mark.parametrize("way", ["pid", "url", "both"])
def test_leak_of_a_child_process_is_found(way: str) -> None:
    """The growth per repetition, and the shortest sequence; by each way to count."""
    with child("buggy") as server, pytest.raises(LeakError) as caught:
        check_server(server.address, count=server.ways(way), messages=MESSAGES)

    text = str(caught.value)
    assert ("+1 task" in text) == (way != "pid")
    assert ("+2 open descriptors" in text) == (way != "url")
    assert text.startswith("grows with each of 16 repetitions: ")
    assert any(r"sends b'wa" in note for note in caught.value.__notes__)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("way", ["pid", "url", "both"])
def test_fixed_child_process_passes(way: str) -> None:
    """Its service for all, and the tasks that come and go, are no leak."""
    with child("fixed") as server:
        check_server(server.address, count=server.ways(way), messages=MESSAGES, sequences=25)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["buggy", "fixed"])
def test_few_events_tell_the_variants_apart(variant: str) -> None:
    """The same with few sequences of few events."""
    options: dict[str, Any] = {"events": ["send", "close"], "sequences": 8, "clients": 1}
    with child(variant) as server:

        def check() -> None:
            check_server(server.address, count=server.url, messages=[b"watch\n"], **options)

        if variant == "fixed":
            check()
        else:
            with pytest.raises(LeakError, match=r"\+1 task"):
                check()


def test_report_names_the_line_and_where_it_waits() -> None:
    """An endpoint tells them, and a replay measures the same growth."""
    line = Replay(bytes([2, 0, 0, 0, 0, 4])).line  # a sends "watch" and closes
    with child("buggy") as server, pytest.raises(LeakError) as caught:
        check_server(server.address, count=server.url, messages=MESSAGES, replay=line)

    (group,) = caught.value.report.groups
    assert (group.kind, group.name, group.count) == ("task", "Event.wait", 16)
    assert group.site.endswith(" in Server.serve")
    assert "watched_server.py:" in group.site
    assert group.waits_on.startswith("Event.wait (")
    assert [frame.function for frame in group.created] == ["Server.serve"]


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [False, True])
def test_monitor_of_the_same_process_counts(*, fixed: bool) -> None:
    """A loop of another thread is asked there."""
    monitor = Monitor(interval=None)
    with in_thread(watched_server.Server(fixed=fixed).serve, monitor) as address:

        def check() -> None:
            check_server(address, count=monitor, messages=MESSAGES, sequences=25)

        if fixed:
            check()
        else:
            with pytest.raises(LeakError, match=r"\+1 task") as caught:
                check()
            assert "on <asyncio.locks.Event [unset, waiters:1]>" in str(caught.value)


def test_ignored_tasks_do_not_count() -> None:
    """An exemption holds for the tasks of an endpoint."""
    options: dict[str, Any] = {"messages": MESSAGES, "events": ["send", "close"], "sequences": 10}
    ignored = ignore_name("Event.wait", reason="of this test")
    with child("buggy") as server:
        check_server(server.address, count=server.url, ignore=ignored, **options)


def test_a_server_that_dies_is_a_finding() -> None:
    """The sequence at which it ended is reported; it cannot be shortened."""
    with child("fixed") as server, pytest.raises(ServerEndedError) as caught:
        check_server(server.address, count=server.url, messages=[b"die\n"], events=["send"])

    assert "sends b'die\\n'" in caught.value.__notes__[0]
    assert "and not again" in caught.value.__notes__[0]


def test_unreachable_and_uncountable_servers_are_refused() -> None:
    """Each error says what was expected, and what to do."""
    with child("fixed") as server:
        with pytest.raises(CountError, match=r"listens at .*Connection refused; start it first"):
            check_server("127.0.0.1:1", count=server.url)
        with pytest.raises(CountError, match=r"expected the tasks of the server, got: .*refused"):
            check_server(server.address, count="http://127.0.0.1:1")
        with pytest.raises(CountError, match="404 Not Found: expected one of /debug/tasks"):
            check_server(server.address, count=f"{server.url}/debug/wrong")
        with pytest.raises(CountError, match=r"expected process 999999999.*no such process"):
            check_server(server.address, count=999_999_999)


@pytest.mark.parametrize(
    ("server", "options", "error", "message"),
    [
        ("127.0.0.1:80", {}, TypeError, "expected a way to count a running server"),
        ("127.0.0.1:80", {"count": []}, TypeError, "expected a way to count"),
        ("127.0.0.1:80", {"count": 1.5}, TypeError, "got 1.5"),
        ("127.0.0.1:80", {"count": "ftp://host"}, ValueError, "expected the address of a debug"),
        ("127.0.0.1:80", {"count": 1, "target": "uvloop"}, ValueError, 'expected target="tcp"'),
        ("127.0.0.1:80", {"count": 1, "events": ["shutdown"]}, ValueError, "no event shutdown"),
        (watched_server.flicker, {"count": 1}, TypeError, "for a server that runs already"),
        ("chat", {"count": 1}, TypeError, "such as '127.0.0.1:8000'"),
    ],
)
def test_wrong_arguments_are_refused(
    server: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Before anything is connected."""
    with pytest.raises(error, match=message):
        check_server(server, **options)


def test_a_loop_that_would_wait_for_itself_is_refused() -> None:
    """A server on the loop of the caller could answer nothing."""

    async def main() -> None:
        with Monitor(interval=None) as monitor:
            with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
                check_server("127.0.0.1:80", count=monitor)
            with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
                check_server("127.0.0.1:80", count=os.getpid())

    asyncio.run(main())


def test_a_monitor_that_is_not_installed_is_refused() -> None:
    """It counts nothing."""
    with pytest.raises(CountError, match="install"):
        asyncio.run(counting(Monitor()).read())


PROFILE = """\
goroutine profile: total 4
3 @ 0x1 0x2
# labels: {"created_by":"a.py:3 in serve","task":"watch"}
#\t0x1\tEvent.wait+0x26\tasyncio/locks.py:213
#\t0x2\twatch+0x4\ta.py:9

1 @

"""


def test_profiles_are_parsed() -> None:
    """Counts by name and creation site, and a group that describes each."""
    counts, groups = parse_profile(PROFILE)

    key = CountedKey("task", "watch", "a.py:3 in serve")
    assert counts == {key: 3, CountedKey("task", "task", "unknown"): 1}
    assert groups[key].waiting == ("a.py:9 in watch", "asyncio/locks.py:213 in Event.wait")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html>", "no profile of tasks"),
        (PROFILE[:60], "3 tasks, where the first line says 4"),
        (PROFILE.replace("total 4", "total 5"), "4 tasks, where the first line says 5"),
    ],
)
def test_other_texts_are_no_profile(text: str, message: str) -> None:
    """Another page, and a profile that was cut short."""
    with pytest.raises(ValueError, match=message):
        parse_profile(text)


def invoke(*words: str) -> Any:
    """Run the command."""
    return CliRunner().invoke(cli, words)


def test_command_repeats_a_sequence() -> None:
    """``muxleak replay LINE HOST:PORT`` measures again."""
    line = Replay(bytes([2, 0, 0, 4])).line  # a sends "watch" and closes
    with child("buggy") as server:
        words = ("--message", r"watch\n", "--endpoint", server.url, "--json")
        repeated = invoke("replay", line, server.address, *words)

    assert repeated.exit_code == 1, repeated.output
    assert json.loads(repeated.stdout)["runs"][0]["error"] == "LeakError"


@pytest.mark.slow
def test_command_finds_the_leak_and_repeats_it() -> None:
    """``muxleak fuzz HOST:PORT``, and the command that it prints."""
    with child("buggy") as server:
        words = (server.address, "--message", r"watch\n", "--endpoint", server.url)
        found = invoke("fuzz", *words)
        again = shlex.split(found.stdout.splitlines()[-1])[1:]
        repeated = invoke(*again, "--json")

    assert found.exit_code == 1, found.output
    assert found.stdout.startswith(f"found in {server.address}, in sequence ")
    assert repeated.exit_code == 1, repeated.output
    assert json.loads(repeated.stdout)["runs"][0]["error"] == "LeakError"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("127.0.0.1:80",), "expected a way to count the server"),
        (("8.8.8.8:80", "--pid", "1"), "expected a loopback address"),
        (("127.0.0.1:80", "--pid", "1", "--target", "tcp"), "--target means nothing for"),
        (("127.0.0.1:80", "--pid", "1", "--test", "x.py"), "--test means nothing for"),
        (("127.0.0.1:1", "--endpoint", "http://127.0.0.1:1"), "expected a server that listens"),
        (("watched_server:main", "--endpoint", "http://a:1"), "--endpoint means nothing for"),
    ],
)
def test_wrong_words_are_refused(words: tuple[str, ...], message: str) -> None:
    """With exit code 2."""
    result = invoke("fuzz", *words)

    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
