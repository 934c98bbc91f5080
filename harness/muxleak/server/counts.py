"""Counts of a server that already runs: by its monitor, by its debug endpoint, or by its process.

This module knows how each way counts; `muxleak.server.running` compares the counts.
"""

# A count must not be changed by the counting. A monitor is asked in the thread of its loop, by a
# callback, which is no task. The connection to an endpoint is none of those that a monitor sees,
# but it is a descriptor of the process; so descriptors are counted first.
#
# The text of the endpoint is that of Go's ``/debug/pprof/goroutine?debug=1`` with two labels,
# "created_by" and "task" (see `muxleak.monitor.profile`). A server that writes it without labels
# is counted by the functions in which it waits.

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import re
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from muxleak.checks.descriptors import KIND, DescriptorRecord
from muxleak.checks.ignores import remaining
from muxleak.checks.report import LeakGroup, LeakReport
from muxleak.introspect.descriptors import type_of
from muxleak.introspect.sites import SiteFrame
from muxleak.introspect.waiting import Waiting
from muxleak.ledger.kinds import GROWTH_KINDS, KINDS, LASTING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from muxleak.checks.ignores import Ignore

_SECONDS = 5.0
"""Longest time until an endpoint or the loop of a monitor answers."""
_MAX_BYTES = 64 << 20
_PATH = "/debug/tasks"
_OK = b"200"
_PROC = Path("/proc")
_LIVE = KINDS - LASTING - GROWTH_KINDS
_EXPECTED = (
    "a Monitor, the address of its debug endpoint such as 'http://127.0.0.1:6060', the id of the "
    "server's process, or a list of these"
)
_TOTAL = re.compile(r"goroutine profile: total (\d{1,18})\s")
_GROUP = re.compile(r"(\d{1,18}) @(?: |$)")
_FRAME = re.compile(r"#\t0x[0-9a-f]+\t(\S+?)(?:\+0x[0-9a-f]+)?\t+(\S+)$")
_SITE = re.compile(r"(.+):(\d{1,9}) in (.+)", re.DOTALL)


class CountError(OSError):
    """A running server cannot be reached or counted; the text says what to do."""


class CountedKey(NamedTuple):
    """Objects that are counted together.

    Attributes:
        kind: one of `kinds.KINDS`.
        name: the name in reports.
        site: the creation site as text; "" if it is not known.
    """

    kind: str
    name: str
    site: str


Counts = Counter[CountedKey]


class Counting(Protocol):
    """A way to count a server."""

    async def read(self) -> Counts:
        """Return the number of live objects by kind, name and creation site.

        Raises:
            CountError: the server cannot be counted.
        """

    async def describe(self, key: CountedKey) -> LeakGroup | None:
        """Return a group that describes one of the objects; None if this way counts no such."""


def counting(ways: Any, ignores: tuple[Ignore, ...] = ()) -> Counting:
    """Return the way to count that a user has given.

    Args:
        ways: an installed `Monitor`, the URL of an endpoint, the id of a process, or a list.
        ignores: values that exempt some objects.

    Raises:
        TypeError: it is something else, or nothing.
        ValueError: the URL is none.
        RuntimeError: the loop that serves waits for this call.
    """
    given = list(ways) if isinstance(ways, list | tuple) else [ways]
    if not given or any(each is None for each in given):
        raise TypeError(f"expected a way to count a running server: count={_EXPECTED}")
    # Descriptors first: asking an endpoint opens one.
    found = [_counting(each, ignores) for each in given]
    found.sort(key=lambda each: not isinstance(each, ProcessCounts))
    return found[0] if len(found) == 1 else CountsTogether(found)


def _counting(way: Any, ignores: tuple[Ignore, ...]) -> Counting:
    if isinstance(way, str):
        return EndpointCounts(way, ignores)
    if isinstance(way, int) and not isinstance(way, bool):
        return ProcessCounts(way, ignores)
    # Recognised by its attributes: the monitor stands above this module.
    if all(hasattr(way, name) for name in ("ledger", "loop", "sample")):
        return MonitorCounts(way, ignores)
    raise TypeError(f"expected count={_EXPECTED}; got {way!r}")


class CountsTogether:
    """Several ways to count one server.

    Args:
        ways: the ways, in the order in which they are asked.
    """

    def __init__(self, ways: Sequence[Counting]) -> None:
        self._ways = ways

    async def read(self) -> Counts:
        """Return the counts of all ways."""
        found: Counts = Counter()
        for way in self._ways:
            found.update(await way.read())
        return found

    async def describe(self, key: CountedKey) -> LeakGroup | None:
        """Return a group of the first way that counts such objects."""
        for way in self._ways:
            if (group := await way.describe(key)) is not None:
                return group
        return None


class MonitorCounts:
    """Counts the tasks and resources of the loop that a monitor of this process watches.

    Args:
        monitor: the monitor, installed on a loop of another thread.
        ignores: values that exempt some.

    Raises:
        RuntimeError: the loop runs in this thread, and would wait for the check.
    """

    def __init__(self, monitor: Any, ignores: tuple[Ignore, ...] = ()) -> None:
        self._monitor, self._ignores = monitor, ignores
        if monitor.loop is not None and monitor.loop is asyncio._get_running_loop():  # noqa: SLF001 - documented, despite its name
            raise RuntimeError(
                "the loop of this monitor would wait for the check: run it in another thread, with "
                "await asyncio.to_thread(check_server, ...)"
            )

    async def read(self) -> Counts:
        """Return the counts."""
        return Counter(map(_key_of, await self._records()))

    async def describe(self, key: CountedKey) -> LeakGroup | None:
        """Return a group of the newest such object."""
        alike = [each for each in await self._records() if _key_of(each) == key]
        if not alike:
            return None
        group: LeakGroup = await self._ask(lambda: LeakReport.of(alike[-1:]).groups[0])
        return replace(group, scopes=())

    async def _records(self) -> list[Any]:
        return await self._ask(self._counted)  # type: ignore[no-any-return]

    def _counted(self) -> list[Any]:
        return remaining(self._monitor.ledger.everything(), _LIVE, self._ignores)

    async def _ask(self, question: Any) -> Any:
        """Return the result of a function that runs in the thread of the monitor's loop."""
        answer: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def call() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:  # noqa: BLE001 - raised in the thread that asks
                answer.set_exception(error)

        loop = self._monitor.loop
        if loop is None or loop.is_closed():
            raise CountError("expected an installed Monitor, got one that is not; call install()")
        loop.call_soon_threadsafe(call)
        try:
            async with asyncio.timeout(_SECONDS):
                return await asyncio.wrap_future(answer)
        except TimeoutError:
            raise CountError(
                f"the loop of the Monitor has not answered within {_SECONDS:g} s: it is blocked, "
                "or does not run"
            ) from None


def _key_of(record: Any) -> CountedKey:
    return CountedKey(record.kind, record.name, str(record.site))


class EndpointCounts:
    """Counts tasks by the debug endpoint of a monitor, or any goroutine profile as text.

    Args:
        url: ``http://HOST:PORT``, with the path of the profile if it is not ``/debug/tasks``.
        ignores: values that exempt some tasks.

    Raises:
        ValueError: it is no such address.
    """

    def __init__(self, url: str, ignores: tuple[Ignore, ...] = ()) -> None:
        parts = urlsplit(url)
        port = None
        with suppress(ValueError):
            port = parts.port
        if parts.scheme != "http" or not parts.hostname or port is None:
            raise ValueError(
                f"expected the address of a debug endpoint, such as http://127.0.0.1:6060{_PATH}; "
                f"got {url!r}"
            )
        self._url, self._address = url, (parts.hostname, port)
        path = parts.path if parts.path.strip("/") else _PATH
        query = f"?{parts.query}" if parts.query else ""
        self._request = f"GET {path}{query} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode()
        self._ignores = ignores
        self._groups: dict[CountedKey, LeakGroup] = {}

    async def read(self) -> Counts:
        """Return the counts."""
        try:
            async with asyncio.timeout(_SECONDS):
                counts, self._groups = parse_profile(await self._fetch(), self._ignores)
        except TimeoutError:
            got = f"no answer within {_SECONDS:g} s"
        except OSError as error:
            got = os.strerror(error.errno) if error.errno else str(error)
        except ValueError as error:
            got = str(error)
        else:
            return counts
        raise CountError(
            f"{self._url}: expected the tasks of the server, got: {got}; check that its "
            "Monitor listens (Monitor.listen), and the address"
        )

    async def describe(self, key: CountedKey) -> LeakGroup | None:
        """Return a group of the last profile."""
        return self._groups.get(key)

    async def _fetch(self) -> str:
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            writer.write(self._request)
            answer = bytearray()
            while data := await reader.read(1 << 16):
                answer += data
                if len(answer) > _MAX_BYTES:
                    raise ValueError(f"more than {_MAX_BYTES >> 20} MiB")
        finally:
            writer.transport.abort()
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        status = head.split(b"\r\n", 1)[0]
        words = status.split()
        if len(words) < 2 or not words[0].startswith(b"HTTP/"):  # noqa: PLR2004 - protocol and status
            raise ValueError(f"no HTTP, {status[:60]!r}" if status else "an empty answer")
        if words[1] != _OK:
            lines = body.decode("utf-8", "replace").splitlines() or [status.decode("latin-1")]
            raise ValueError(lines[0][:200])
        return body.decode("utf-8", "replace")


class _ProfiledTask(NamedTuple):
    """A task of a profile, with the attributes of a record that exemptions read."""

    group: LeakGroup
    kind: str = "task"

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def site(self) -> Any:
        return self

    @property
    def frames(self) -> tuple[SiteFrame, ...]:
        return self.group.created

    def waiting_on(self) -> Waiting:
        return Waiting(self.group.waiting, "", "")


def parse_profile(
    text: str, ignores: tuple[Ignore, ...] = ()
) -> tuple[Counts, dict[CountedKey, LeakGroup]]:
    """Parse a profile of tasks.

    Args:
        text: in the form of Go's ``goroutine?debug=1``.
        ignores: values that exempt some tasks.

    Returns:
        The counts, and for each key a group that describes it.

    Raises:
        ValueError: it is no such text, or it was cut short.
    """
    total = _TOTAL.match(text)
    if total is None:
        raise ValueError(f"no profile of tasks, {text[:60]!r}")
    counts: Counts = Counter()
    groups: dict[CountedKey, LeakGroup] = {}
    found = 0
    for block in text[total.end() :].split("\n\n"):
        lines = block.splitlines()
        counted = _GROUP.match(lines[0]) if lines else None
        if counted is not None:
            found += int(counted[1])
            group = _group_of(lines[1:])
            if remaining([_ProfiledTask(group)], _LIVE, ignores):
                key = CountedKey("task", group.name, group.site)
                counts[key] += int(counted[1])
                groups.setdefault(key, group)  # the largest comes first
    if found != int(total[1]):
        raise ValueError(f"{found} tasks, where the first line says {total[1]}")
    return counts, groups


def _group_of(lines: Iterable[str]) -> LeakGroup:
    """Return the group that the lines of a block describe, after their first one."""
    labels: dict[str, Any] = {}
    frames = []
    for line in lines:
        if line.startswith("# labels: "):
            with suppress(ValueError):
                labels = json.loads(line.removeprefix("# labels: "))
        elif frame := _FRAME.match(line):
            frames.append((frame[1], frame[2]))
    site = str(labels.get("created_by", "unknown"))
    place = f"{frames[0][0]} ({frames[0][1]})" if frames else "a place that is not known"
    name = str(labels.get("task", frames[0][0] if frames else "task"))
    made = _SITE.fullmatch(site)
    created = (SiteFrame(made[1], int(made[2]), made[3]),) if made else ()
    chain = tuple(f"{where} in {function}" for function, where in reversed(frames))
    return LeakGroup(0, name, site, chain, place, (), created=created)


class ProcessCounts:
    """Counts the descriptors of a process of this machine, from /proc.

    Args:
        pid: the process.
        ignores: values that exempt some.
        proc: where the file system is mounted.

    Raises:
        RuntimeError: it is this process, and a loop runs in this thread.
    """

    def __init__(self, pid: int, ignores: tuple[Ignore, ...] = (), proc: Path = _PROC) -> None:
        self._pid, self._ignores, self._folder = pid, ignores, proc / str(pid)
        if pid == os.getpid() and asyncio._get_running_loop() is not None:  # noqa: SLF001 - documented, despite its name
            raise RuntimeError(
                "the loop that runs here would wait for the check, and a server on it could not "
                "answer: await asyncio.to_thread(check_server, ...)"
            )

    async def read(self) -> Counts:
        """Return the counts by type: socket, pipe, file."""
        try:
            status = (self._folder / "status").read_text("utf-8", "replace")
            if re.search(r"^State:\s*[ZX]", status, re.MULTILINE):
                raise FileNotFoundError  # a zombie, of which only the exit code is left
            names = os.listdir(self._folder / "fd")  # noqa: PTH208 - as the process's own count
        except OSError as error:
            raise CountError(
                f"expected process {self._pid} and its descriptors in {self._folder}, got "
                f"{_found(error)}; check the id, and that it runs as the same user"
            ) from None
        found = []
        for name in names:
            with suppress(OSError):  # closed since
                target = os.readlink(self._folder / "fd" / name)  # noqa: PTH115 - a text is needed
                found.append(DescriptorRecord(type_of(target)))
        counted = remaining(found, frozenset({KIND}), self._ignores)
        return Counter(CountedKey(KIND, each.name, "") for each in counted)

    async def describe(self, key: CountedKey) -> LeakGroup | None:
        """Return a group without a creation site: the system keeps none."""
        if key.kind != KIND:
            return None
        place = f"is open in process {self._pid}"
        return LeakGroup(0, key.name, "unknown", (), place, (), kind=KIND)


def _found(error: OSError) -> str:
    if isinstance(error, FileNotFoundError | ProcessLookupError):
        return "no such process"
    if isinstance(error, PermissionError):
        return "a process of another user"
    return error.strerror or str(error)
