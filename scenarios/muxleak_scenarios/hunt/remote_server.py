"""The server under test: counted from outside, found dead, and started again where it is ours."""

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
"""How long a server that we start may take until it accepts and can be counted."""
STOP_SECONDS = 5.0
LOG_LINES = 8
_LOG_BYTES = 16 << 10
_TRIES = 3
_PAUSE = 0.1
_ANSWER_SECONDS = 2.0
_STYLE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
"""What a terminal takes for colours and the like (ECMA-48, section 5.4)."""


class StartError(Exception):
    """The server could not be started, or does not do what a hunt needs; says what to do."""


class RemoteServer:
    """A server at an address.

    Args:
        address: where it takes connections.
        pprof: addresses of its goroutine profiles.
        v2ray: addresses of its API, if it is a V2Ray that counts its goroutines.
        pid: its process, if that is to be counted and not ours.
        command: starts it, in a session of its own; None if it runs already.

    Raises:
        ValueError: if nothing counts it, or an address is none.
        ImportError: if V2Ray is to be asked, and the extra for that is missing.
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
        if not (pprof or v2ray or pid or command):
            raise ValueError("expected a way to count the server, got none")
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
        """Whether we start it, and can start it again."""
        return self._words is not None

    async def read(self) -> Snapshot:
        """Count it.

        Raises:
            CounterError: if it cannot be counted.
        """
        return await self._counter.read()

    async def start(self, check: Callable[[], object] = bool) -> None:
        """Start it if it is ours; wait until it accepts and can be counted.

        ``check`` is called again and again while it does not, and ends that by an exception.

        Raises:
            StartError: if it does not come to that.
            CounterError: if it accepts, but cannot be counted.
        """
        if self._words is not None:
            if not await self.died(tries=1):
                taken = "{}:{}".format(*self.address)
                raise StartError(
                    f"{taken} is taken already; end what listens there, or leave "
                    "--command out and count that server"
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
        """End it and start it again, as `start` does.

        Raises:
            StartError: if it does not come up.
            CounterError: if it accepts, but cannot be counted.
        """
        self.stop()
        await self.start(check)

    async def died(self, tries: int = _TRIES) -> str:
        """Say how it is dead: "exited with status 2", "refuses connections"; "" if it lives."""
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
        """Return the last lines that a server of ours has printed."""
        if self._output is None:
            return ()
        with open(self._output.name, "rb") as file:  # noqa: PTH123 - a second view of an open file
            size = file.seek(0, 2)
            file.seek(max(0, size - _LOG_BYTES))
            lines = _STYLE.sub("", file.read().decode("utf-8", "replace")).splitlines()
        return tuple(line for line in lines if line.strip())[-LOG_LINES:]

    def stop(self, *, kill: bool = False) -> None:
        """End it, if it is ours, and what we keep open to count it.

        ``kill`` gives it no time to end in good order.
        """
        for stats in self._v2ray:
            stats.close()
        if (process := self._process) is not None:
            # No wait is without limit: a signal may come in it, whose handler does the same again.
            if not kill:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
            # With what it has started, such as the server that a shell runs.
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
            # A session of its own, so that Ctrl-C ends the hunt and not the server before it.
            self._process = subprocess.Popen(  # noqa: S603 - the user's own command
                words,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise StartError(f"cannot start {words[0]!r}: {error.strerror}") from None
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
