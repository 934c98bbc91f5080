"""Replays: a run written as one line, and as one small file.

Both lead to the same trace on every supported Python.
"""

# The line is "sim1:" and base64 (URL alphabet, no padding) of
#
#   one byte     0: what follows is plain; 1: it is compressed with zlib, where that is shorter
#   one byte     bit 0: wake-ups are permuted; bit 1: gaps are not drawn
#   two bytes    length of the program's bytes, big-endian
#   the bytes    first the program's, then the environment's
#
# "sim1" is the version of this layout. The file holds the line and the facts that a person or
# another process needs: the name of the program, the hash of the trace, the verdict and the steps.
# It has at most 4 KB, so that a folder of them stays readable and can be committed.

import base64
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

MARK = "sim1:"
"""The first characters of every line."""
SUFFIX = ".sim.json"
"""The end of a replay file's name; the pytest plugin collects no other files."""
_MAX_FILE = 4096  # bytes
_PLAIN, _PACKED = 0, 1


class ReplayError(ValueError):
    """A line or file is no replay, or was changed, or its program no longer does the same."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The facts by which a program runs again in the same way.

    The line holds the first four; the file holds all.

    Attributes:
        program: the bytes that the program draws from.
        environment: the bytes of the simulation's decisions.
        wakeups: True if task wake-ups are permuted.
        gaps: True if gaps are drawn.
        name: the program, as "module:qualified name".
        trace: the hash that the run must have; not checked if empty.
        verdict: the error of the run, in one line.
        steps: the steps that the program announced.
    """

    program: bytes = b""
    environment: bytes = b""
    wakeups: bool = False
    gaps: bool = True
    name: str = ""
    trace: str = ""
    verdict: str = ""
    steps: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The replay as one word."""
        head = self.wakeups | (not self.gaps) << 1
        size = len(self.program)
        body = bytes([head, size >> 8, size & 255]) + self.program + self.environment
        packed = zlib.compress(body, 9)
        data = bytes([_PACKED]) + packed if len(packed) < len(body) else bytes([_PLAIN]) + body
        return MARK + base64.urlsafe_b64encode(data).decode().rstrip("=")

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line.

        Raises:
            ReplayError: it is none, or was cut or changed.
        """
        text = line.strip()
        if not text.startswith(MARK):
            raise ReplayError(f"expected a line that starts with {MARK!r}, got {text[:40]!r}")
        word = text.removeprefix(MARK)
        try:
            data = base64.b64decode(word + "=" * (-len(word) % 4), altchars="-_", validate=True)
            body = zlib.decompress(data[1:]) if data[0] == _PACKED else data[1:]
            head, size = body[0], body[1] << 8 | body[2]
        except (ValueError, IndexError, zlib.error) as exc:
            raise ReplayError(f"this line was cut or changed: {text[:40]!r}") from exc
        program, environment = body[3 : 3 + size], body[3 + size :]
        return cls(program, environment, wakeups=bool(head & 1), gaps=not head & 2)

    def save(self, path: Path | str) -> None:
        """Write the file; leave out steps that do not fit, but never a byte.

        Raises:
            ReplayError: the bytes alone do not fit.
        """
        Path(path).write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the content of the file, at most 4 KB.

        Raises:
            ReplayError: as `save`.
        """
        # Halved, not shortened by one: a run of a thousand steps is written in ten rounds.
        steps, kept = list(self.steps), len(self.steps)
        while len(text := self._text(steps).encode()) > _MAX_FILE:
            if not steps:
                raise ReplayError(
                    f"{len(text)} bytes are more than a replay may have; shrink first"
                )
            kept //= 2
            steps = [*self.steps[:kept], "..."] if kept else []
        return text

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a file.

        Raises:
            ReplayError: the file is no replay.
            OSError: the file cannot be read.
        """
        try:
            content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            found = cls.parse(content["line"])
            return cls(
                found.program,
                found.environment,
                found.wakeups,
                found.gaps,
                content["program"],
                content["trace"],
                content["verdict"],
                tuple(content["steps"]),
            )
        except (ValueError, KeyError, TypeError) as exc:
            raise ReplayError(f"{path}: not a replay file: {exc}") from exc

    def _text(self, steps: list[str]) -> str:
        content = {
            "program": self.name,
            "line": self.line,
            "trace": self.trace,
            "verdict": self.verdict[:400],
            "steps": steps,
        }
        return json.dumps(content, indent=1) + "\n"
