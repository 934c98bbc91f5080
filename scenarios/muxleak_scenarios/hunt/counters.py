"""Counting a running server from outside: goroutines or tasks, descriptors, threads, memory."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import parse_qs, urlsplit

from muxleak_scenarios.hunt.stacks import Stack, parse_stacks

if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTORS: Stack = ("descriptors",)
THREADS: Stack = ("threads",)
GOROUTINES: Stack = ("goroutines",)
"""Goroutines of which only the number is known."""
_UNITS = (DESCRIPTORS, THREADS)
SECONDS = 5.0
"""How long one look may take."""
MAX_BYTES = 64 << 20
_PATH = "/debug/pprof/goroutine"
_OK = 200
_PROC = Path("/proc")
_KIB = 1024


class CounterError(Exception):
    """The server cannot be counted: what was expected, what came, and what to do."""


class Snapshot(NamedTuple):
    """What a server has at one moment: what is counted, by stack or unit, and its memory."""

    counts: Counter[Stack]
    memory: int | None = None
    """Bytes: resident, or of the heap where nothing better is known."""

    @property
    def tasks(self) -> int:
        """Goroutines, or tasks."""
        return tasks(self.counts)


class Counts(Protocol):
    """Something that counts a server."""

    async def read(self) -> Snapshot:
        """Look once.

        Raises:
            CounterError: if it cannot.
        """


def why(error: OSError) -> str:
    """Say what an error is; asyncio's own text says only that there was one."""
    number = error.errno or 0
    return os.strerror(number) if number > 0 else str(error)


def tasks(counts: Counter[Stack]) -> int:
    """Return how many of what is counted are goroutines or tasks."""
    return sum(count for stack, count in counts.items() if stack not in _UNITS)


class Pprof:
    """Goroutines by stack, from a debug endpoint.

    Args:
        url: ``http://HOST:PORT``, with the profile's path and query unless they are the usual ones.

    Raises:
        ValueError: if it is no such address.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            expected = "http://HOST:PORT, such as http://127.0.0.1:6060" + _PATH + "?debug=1"
            raise ValueError(f"expected {expected}; got {url!r}")
        self.host, self._port = parts.hostname, parts.port or 80
        path = parts.path if parts.path.strip("/") else _PATH
        query = parts.query if "debug" in parse_qs(parts.query) else f"{parts.query}&debug=1"
        # Version 1.0, so that the answer comes in one piece and ends with its connection.
        request = f"GET {path}?{query.lstrip('&')} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n"
        self._request = request.encode()
        self._url = url

    async def read(self) -> Snapshot:
        """Fetch and read the profile.

        Raises:
            CounterError: if there is none.
        """
        try:
            async with asyncio.timeout(SECONDS):
                answer = await self._fetch()
            return Snapshot(_profile(answer))
        except TimeoutError:
            got = f"none within {SECONDS:g} s"
        except OSError as error:
            got = why(error)
        except ValueError as error:
            got = str(error)
        raise CounterError(
            f"{self._url}: expected a goroutine profile, got: {got}; check that the debug listener "
            "of the server is on, and its address"
        )

    async def _fetch(self) -> bytes:
        reader, writer = await asyncio.open_connection(self.host, self._port)
        try:
            writer.write(self._request)
            answer = bytearray()
            while data := await reader.read(1 << 16):
                answer += data
                if len(answer) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES >> 20} MiB")
            return bytes(answer)
        finally:
            writer.transport.abort()


def _profile(answer: bytes) -> Counter[Stack]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0]
    words = status.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or words[1] != b"%d" % _OK:  # noqa: PLR2004 - protocol and status
        raise ValueError(repr(status[:60].decode("latin-1")))
    return parse_stacks(body.decode("utf-8", "replace"))


class Process:
    """Descriptors, threads and resident memory of a process of this machine, from /proc."""

    def __init__(self, pid: int, proc: Path = _PROC) -> None:
        self.pid = pid
        self._folder = proc / str(pid)

    async def read(self) -> Snapshot:
        """Look once.

        Raises:
            CounterError: if there is no such process, or it is another user's.
        """
        try:
            descriptors = sum(1 for _ in (self._folder / "fd").iterdir())
            lines = (self._folder / "status").read_text("utf-8").splitlines()
            status = dict(line.split(":", 1) for line in lines if ":" in line)
            threads, resident = int(status["Threads"]), int(status["VmRSS"].split()[0])
        except (OSError, KeyError, ValueError) as error:
            raise CounterError(
                f"expected process {self.pid} and its descriptors in {self._folder}, got: "
                f"{error!r}; check the id, and that it runs as the same user"
            ) from None
        return Snapshot(Counter({DESCRIPTORS: descriptors, THREADS: threads}), resident * _KIB)


class Together:
    """Several counters of one server, as one.

    Threads count only where nothing else tells of tasks: a runtime that schedules its own makes
    threads as it likes. A mere number of goroutines counts only where no profile tells them apart.
    """

    def __init__(self, counters: Sequence[Counts]) -> None:
        self._counters = counters

    async def read(self) -> Snapshot:
        """Look with each.

        Raises:
            CounterError: if one cannot.
        """
        counts: Counter[Stack] = Counter()
        memory = None
        # Descriptors first: the connection of the request for the stacks is not theirs to count.
        for counter in sorted(self._counters, key=lambda each: not isinstance(each, Process)):
            snapshot = await counter.read()
            counts += snapshot.counts
            memory = memory or snapshot.memory
        if tasks(counts) > counts[GOROUTINES]:
            del counts[GOROUTINES]
        if tasks(counts):
            del counts[THREADS]
        return Snapshot(counts, memory)
