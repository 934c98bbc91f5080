"""Counts a running server from outside: goroutines or tasks, descriptors, threads, memory."""

# A counter must not be part of its own count, and must see no change where there is none:
#
# - The request for a profile is served by goroutines of the server under test. `stacks` leaves them
#   out by name. Its connection is a descriptor as well, so descriptors are read from /proc first,
#   before the profile is asked for.
# - A counter that keeps a connection open (gRPC, see `v2ray`) keeps it for the whole hunt, so that
#   it is in every count or in none.
# - The profile is asked for as text with ``debug=1``, in which equal stacks are grouped. Without
#   that query Go answers with a compressed protocol buffer.
# - A profile is parsed as it arrives (see `stacks`), and other work of the loop goes on between two
#   pieces. A large one takes seconds; whoever waits for it can end the wait at any time.
# - A reset of that connection says nothing about the server, whose kernel resets a connection for
#   which a queue is full. It is asked again, a few times.
# - The request is HTTP/1.0, and the end of the connection ends the answer: no chunks, no reuse, and
#   no HTTP client as a dependency.
#
# Several counters of one server overlap, and each goroutine must count once. A profile is better
# than a mere number of goroutines, and both are better than the threads of the process: a runtime
# with a scheduler of its own, such as Go's, starts and keeps threads as it likes. Threads count
# only for a server of which nothing else is known.
#
# Sources: Go's net/http/pprof (paths, the query ``debug``), proc(5) (fd, status).

from __future__ import annotations

import asyncio
import codecs
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import parse_qs, urlsplit

from muxleak_scenarios.hunt.stacks import Stack, StackParser

if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTORS: Stack = ("descriptors",)
THREADS: Stack = ("threads",)
GOROUTINES: Stack = ("goroutines",)
"""Key for goroutines of which only the number is known."""
_UNITS = (DESCRIPTORS, THREADS)
SECONDS = 5.0
"""Longest time until a server begins or goes on to answer."""
_WHOLE_SECONDS = 60.0
"""Longest time for one sample."""
MAX_BYTES = 64 << 20
_PIECE = 1 << 16
"""Bytes parsed without a pause: some milliseconds."""
_TRIES = 3
"""Requests for one sample, if the server resets the connections."""
_PAUSE = 0.05
_PATH = "/debug/pprof/goroutine"
_OK = 200
_KINDS = {"": "an empty page", "<": "an HTML page", "{": "JSON", "[": "JSON"}
"""Answers that are no profile, by their first character."""
_PROC = Path("/proc")
_KIB = 1024


class CounterError(Exception):
    """The server cannot be counted; the text has expectation, answer and remedy."""


class Snapshot(NamedTuple):
    """A sample of a server: its counts by stack or unit, and its memory."""

    counts: Counter[Stack]
    memory: int | None = None
    """Bytes: resident, or of the heap where nothing better is known."""

    @property
    def tasks(self) -> int:
        """Number of goroutines or tasks."""
        return tasks(self.counts)


class Counts(Protocol):
    """A counter of a server."""

    async def read(self) -> Snapshot:
        """Take a sample.

        Raises:
            CounterError: the server cannot be counted.
        """


def why(error: OSError) -> str:
    """Return the reason of an error; asyncio's own text says only that there was one."""
    number = error.errno or 0
    return os.strerror(number) if number > 0 else str(error)


def tasks(counts: Counter[Stack]) -> int:
    """Return the number of goroutines or tasks among the counts."""
    return sum(count for stack, count in counts.items() if stack not in _UNITS)


class Pprof:
    """Counts goroutines by stack, from a debug endpoint.

    Args:
        url: ``http://HOST:PORT``, with path and query of the profile if they are not Go's own.

    Raises:
        ValueError: it is no such address.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            expected = "http://HOST:PORT, such as http://127.0.0.1:6060" + _PATH + "?debug=1"
            raise ValueError(f"expected {expected}; got {url!r}")
        try:
            self.host, self._port = parts.hostname, parts.port or 80
        except ValueError as error:
            raise ValueError(f"expected a port of 1 to 65535, got {url!r}") from error
        path = parts.path if parts.path.strip("/") else _PATH
        query = parts.query if "debug" in parse_qs(parts.query) else f"{parts.query}&debug=1"
        request = f"GET {path}?{query.lstrip('&')} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n"
        self._request = request.encode()
        self._url = url

    async def read(self) -> Snapshot:
        """Fetch and parse the profile.

        Raises:
            CounterError: no profile came.
        """
        try:
            async with asyncio.timeout(_WHOLE_SECONDS):
                for _ in range(_TRIES - 1):
                    with suppress(ConnectionResetError, ConnectionAbortedError, BrokenPipeError):
                        return Snapshot(await self._fetch())
                    await asyncio.sleep(_PAUSE)
                return Snapshot(await self._fetch())
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

    async def _fetch(self) -> Counter[Stack]:
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection(self.host, self._port)
        answer = _Answer()
        try:
            writer.write(self._request)
            while True:
                async with asyncio.timeout(SECONDS):
                    data = await reader.read(_PIECE)
                if not data:
                    return answer.close()
                answer.feed(data)
                # The next piece may be at hand, and then `read` does not wait.
                await asyncio.sleep(0)
        finally:
            writer.transport.abort()


class _Answer:
    """An HTTP answer with a profile, which is parsed as it arrives."""

    def __init__(self) -> None:
        self._head: bytes | None = b""
        self._size = 0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._parser = StackParser()

    def feed(self, data: bytes) -> None:
        """Parse a piece.

        Raises:
            ValueError: it is no answer with a profile, or too long a one.
        """
        self._size += len(data)
        if self._size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES >> 20} MiB; ask with debug=1, which groups")
        if self._head is not None:
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return
            self._check(head)
            self._head = None
        self._parser.feed(self._decode(data))

    def close(self) -> Counter[Stack]:
        """Return the number of goroutines by stack.

        Raises:
            ValueError: there was no whole profile.
        """
        if self._head is not None:
            self._check(self._head)
        self._parser.feed(self._decode(b"", final=True))
        try:
            return self._parser.close()
        except ValueError:
            # The address of something else is the likeliest mistake, and named as such.
            start = self._parser.start
            if kind := _KINDS.get(start.lstrip()[:1]):
                raise ValueError(f"{kind} ({start!r})") from None
            raise

    def _check(self, head: bytes) -> None:
        status = head.split(b"\r\n", 1)[0]
        words = status.split()
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or words[1] != b"%d" % _OK:  # noqa: PLR2004 - protocol and status
            raise ValueError(repr(status[:60].decode("latin-1")) if status else "an empty answer")


class Process:
    """Counts descriptors, threads and resident memory of a local process, from /proc.

    Args:
        pid: the process.
        proc: where the file system is mounted.
    """

    def __init__(self, pid: int, proc: Path = _PROC) -> None:
        self.pid = pid
        self._folder = proc / str(pid)

    async def read(self) -> Snapshot:
        """Take a sample.

        Raises:
            CounterError: there is no such process, or it is another user's.
        """
        try:
            descriptors = sum(1 for _ in (self._folder / "fd").iterdir())
            lines = (self._folder / "status").read_text("utf-8").splitlines()
            status = dict(line.split(":", 1) for line in lines if ":" in line)
            threads, resident = int(status["Threads"]), int(status["VmRSS"].split()[0])
        except (OSError, KeyError, ValueError) as error:
            raise CounterError(
                f"expected process {self.pid} and its descriptors in {self._folder}, got "
                f"{_found(error)}; check the id, and that it runs as the same user"
            ) from None
        return Snapshot(Counter({DESCRIPTORS: descriptors, THREADS: threads}), resident * _KIB)


def _found(error: OSError | KeyError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such process"
    if isinstance(error, PermissionError):
        return "a process of another user"
    return why(error) if isinstance(error, OSError) else "a process that has ended"


class Together:
    """Several counters of one server as one.

    A number of goroutines is dropped where a profile has their stacks, and threads are dropped
    where goroutines or tasks are counted.

    Args:
        counters: the counters, in any order.
    """

    def __init__(self, counters: Sequence[Counts]) -> None:
        self._counters = counters

    async def read(self) -> Snapshot:
        """Take a sample with each counter.

        Raises:
            CounterError: one of them cannot count the server.
        """
        counts: Counter[Stack] = Counter()
        memory = None
        # Descriptors first, before the request for a profile opens one.
        for counter in sorted(self._counters, key=lambda each: not isinstance(each, Process)):
            snapshot = await counter.read()
            counts += snapshot.counts
            memory = memory or snapshot.memory
        if tasks(counts) > counts[GOROUTINES]:
            del counts[GOROUTINES]
        if tasks(counts):
            del counts[THREADS]
        return Snapshot(counts, memory)
