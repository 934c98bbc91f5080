"""Programs on loopback: started, waited for, and surely ended; or skipped, unless required."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, Self

import pytest

from muxleak_scenarios.real.programs import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

REQUIRE = "MUXLEAK_REQUIRE"
"""The environment variable: what it names, separated by commas, must not be skipped."""
READY_SECONDS = 10.0


class Process:
    """A program that runs; a context manager that ends it.

    ``address`` is where it listens, once it is ready; ``log`` the last of what it has written.
    """

    def __init__(self, title: str, command: Sequence[str], folder: Path) -> None:
        self.title = title
        self.address = (LOOPBACK, 0)
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - a test's own choice
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def log(self) -> str:
        """The last of what it has written."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-8_000:]

    def ready(self, port: int) -> bool:
        """Wait until it accepts; False if it has ended instead."""
        for _ in range(int(READY_SECONDS / 0.02)):
            try:
                socket.create_connection((LOOPBACK, port), timeout=1).close()
            except OSError:
                try:
                    self.process.wait(0.02)
                except subprocess.TimeoutExpired:
                    continue
            # Who answered may be another, if it could not have the port.
            self.address = (LOOPBACK, port)
            return self.process.poll() is None
        raise AssertionError(f"{self.title}: nobody accepts on port {port}\n{self.log}")

    def kill(self) -> None:
        """End it, whatever it is doing, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """Ask it to end, and wait until it is gone."""
        self.process.terminate()
        self.process.wait(READY_SECONDS)


@contextmanager
def burning(number: int) -> Iterator[None]:
    """Keep so many processes busy, which do nothing but use CPU time."""
    command = [sys.executable, "-c", "while True: pass"]
    burners = [subprocess.Popen(command) for _ in range(number)]  # noqa: S603 - our own words
    try:
        yield
    finally:
        for each in burners:
            each.kill()
            each.wait()


def has_ended(pid: int) -> bool:
    """Return True if a process that is nobody's child here ends, or has ended, within 10 s.

    A process that was killed may stay in the list of processes until its parent, or the first
    process of a container, has fetched its exit status.
    """
    try:
        if sys.platform != "linux":
            os.kill(pid, 0)
            return False
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], READY_SECONDS)[0])
    finally:
        os.close(descriptor)


def unavailable(group: str, reason: str) -> NoReturn:
    """Skip the test, or fail it where `REQUIRE` names its group."""
    if group in os.environ.get(REQUIRE, "").split(","):
        pytest.fail(f"{REQUIRE} says that this must not be skipped; {reason}", pytrace=False)
    pytest.skip(reason)
