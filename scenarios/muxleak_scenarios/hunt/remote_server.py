"""The server under test: counted from outside, and started and stopped if the hunt owns it."""

# There are two kinds of server. One that runs already is counted and never touched. One that the
# hunt starts by a command ("ours") can be restarted after it died, or to be rid of leftovers, and
# is a new process with a new id each time, so its counters are made anew at every start.
#
# A server of ours:
#
# - runs in a session of its own. Ctrl-C in the terminal then reaches the hunt alone, which stops
#   the server afterwards. The session is also its process group, so that a kill reaches everything
#   that the command started, such as the server behind a shell.
# - must find its port free. If another program listened there, the hunt would attack that one and
#   count the new process.
# - counts as started when it accepts connections and can be counted, since debug endpoints often
#   listen later than the service.
# - writes its output to a file and not to a pipe: nobody reads while it runs, and a full pipe would
#   block it. The last lines are shown when it dies, without the control sequences for terminals.
#
# Death is found by two signs: its exit, or several failed attempts to connect. One failure is not
# enough, since a busy server may refuse for a moment.
#
# Every wait of a start calls ``check``, which raises when the hunt is to end: otherwise the first
# Ctrl-C would wait up to `START_SECONDS`. For the same reason the waits in `stop` are bounded: a
# second signal may arrive in them, whose handler calls `stop` again.

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from muxleak_scenarios.hunt.counters import CounterError, Pprof, Process, Snapshot, Together, why
from muxleak_scenarios.hunt.v2ray import V2RayStats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

START_SECONDS = 15.0
"""Longest time until a server of ours accepts connections and can be counted."""
STOP_SECONDS = 5.0
_REASONS: dict[type[OSError], str] = {
    FileNotFoundError: "there is no such program",
    PermissionError: "it is not executable",
}
LOG_LINES = 8
_LOG_BYTES = 16 << 10
_TRIES = 3
_PAUSE = 0.1
_ANSWER_SECONDS = 2.0
_STYLE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
"""Control sequences for terminals, such as colours (ECMA-48, section 5.4)."""


class StartError(Exception):
    """The server could not be started, or cannot be hunted; its text says how to fix that."""


class RemoteServer:
    """A server under test.

    Args:
        address: host and port of its service.
        pprof: URLs of its goroutine profiles.
        v2ray: ``HOST:PORT`` of its API, if it is a V2Ray that counts its goroutines.
        pid: its process id, for a server that runs already.
        command: shell words that start it; None if it runs already.

    Raises:
        ValueError: nothing counts the server, or an address is malformed.
        ImportError: ``v2ray`` is given and grpcio is not installed.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        pprof: Sequence[str] = (),
        v2ray: Sequence[str] = (),
        pid: int | None = None,
        command: str | None = None,
    ) -> None:
        if not (pprof or v2ray or pid or command is not None):
            raise ValueError(
                "expected a way to count the server (pprof, v2ray, pid or command), got none"
            )
        self.address = address
        self._pprof = [Pprof(url) for url in pprof]
        self._v2ray = [V2RayStats(each) for each in v2ray]
        self._pid = pid
        self._words = _words(command) if command is not None else None
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._counter = self._counters()

    @property
    def ours(self) -> bool:
        """True if the hunt starts the server and can start it again."""
        return self._words is not None

    async def read(self) -> Snapshot:
        """Take a sample of the server.

        Raises:
            CounterError: it cannot be counted.
        """
        return await self._counter.read()

    async def start(self, check: Callable[[], object] = bool) -> None:
        """Start the server if it is ours, and wait until it accepts and can be counted.

        Args:
            check: called repeatedly during the wait; an exception from it ends the wait.

        Raises:
            StartError: the server does not accept connections in time, or has ended.
            CounterError: it accepts connections, but cannot be counted.
        """
        if self._words is not None:
            if not await self.died(tries=1):
                taken = "{}:{}".format(*self.address)
                raise StartError(
                    f"expected {taken} to be free, but a program listens there already; stop it, "
                    "or leave out --command to hunt it"
                )
            self._launch(self._words)
        until = time.monotonic() + (START_SECONDS if self.ours else 0)
        while trouble := await self.died(tries=1):
            trouble = self._exited() or trouble
            if time.monotonic() >= until or self._exited():
                log = "".join(f"\n  {line}" for line in self.log())
                raise StartError(
                    f"expected a server at {self.address[0]}:{self.address[1]}, got: {trouble}; "
                    f"check the address{' and the command' if self.ours else ''}{log}"
                )
            check()
            await asyncio.sleep(_PAUSE)
        while True:
            try:
                await self.read()
            except CounterError:
                if time.monotonic() >= until:
                    raise
                check()
                await asyncio.sleep(_PAUSE)
            else:
                return

    async def restart(self, check: Callable[[], object] = bool) -> None:
        """Stop the server and start it again, as `start` does.

        Raises:
            StartError: the server does not accept connections in time, or has ended.
            CounterError: it accepts connections, but cannot be counted.
        """
        self.stop()
        await self.start(check)

    async def died(self, tries: int = _TRIES) -> str:
        """Return how the server died, such as "exited with status 2"; "" if it is alive.

        Args:
            tries: number of failed connections after which it counts as dead.
        """
        trouble = ""
        for _ in range(tries):
            if exited := self._exited():
                return exited
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    _, writer = await asyncio.open_connection(*self.address)
                writer.transport.abort()
            except TimeoutError:
                trouble = f"accepts nothing within {_ANSWER_SECONDS:g} s"
            except OSError as error:
                refused = isinstance(error, ConnectionRefusedError)
                trouble = "refuses connections" if refused else why(error)
            else:
                return ""
            await asyncio.sleep(_PAUSE)
        return trouble

    def log(self) -> tuple[str, ...]:
        """Return the last lines of output of a server of ours."""
        if self._output is None:
            return ()
        with open(self._output.name, "rb") as file:  # noqa: PTH123 - a second view of an open file
            size = file.seek(0, 2)
            file.seek(max(0, size - _LOG_BYTES))
            lines = _STYLE.sub("", file.read().decode("utf-8", "replace")).splitlines()
        return tuple(line for line in lines if line.strip())[-LOG_LINES:]

    def stop(self, *, kill: bool = False) -> None:
        """Stop the server if it is ours, and close the connections that count it.

        Args:
            kill: True to kill it at once, without time to end in order.
        """
        for stats in self._v2ray:
            stats.close()
        if (process := self._process) is not None:
            if not kill:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
            # The whole group, also after the process itself has ended.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            self._process = None
        output, self._output = self._output, None
        if output is not None:
            output.close()

    def _launch(self, words: list[str]) -> None:
        self._output = tempfile.NamedTemporaryFile(prefix="muxleak-hunt-", suffix=".log")  # noqa: SIM115 - open for as long as the server
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own command
                words,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            reason = _REASONS.get(type(error), error.strerror)
            raise StartError(f"cannot start {words[0]!r}: {reason}; check the command") from None
        self._counter = self._counters()

    def _counters(self) -> Together:
        pid = self._process.pid if self._process is not None else self._pid
        processes = [] if pid is None else [Process(pid)]
        return Together([*processes, *self._pprof, *self._v2ray])

    def _exited(self) -> str:
        code = None if self._process is None else self._process.poll()
        if code is None:
            return ""
        if code >= 0:
            return f"exited with status {code}"
        with suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(
            f"expected a command as a shell takes it, got {command!r}: {error}"
        ) from None
    if not words:
        raise ValueError("expected a command that starts the server, got none")
    return words
