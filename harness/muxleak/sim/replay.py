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
# It has at most 4 KB, so that a folder of them stays readable and can be committed. A reader takes
# more, since editors and version control may change the space in it.
#
# A file names its program, and to run that its module must be imported, which runs code. A file may
# come from anybody, in a bug report for instance. So every user of a file asks for the program by
# itself, or for trust in the file: `Replay.path` says that a name came from a file.

import base64
import json
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from muxleak import files

MARK = "sim1:"
"""The first characters of every line."""
SUFFIX = ".sim.json"
"""The end of a replay file's name; the pytest plugin collects no other files."""
_MAX_FILE = 4096  # bytes
_MAX_READ = 1 << 16  # bytes of a file
_MAX_LINE = 1 << 22  # characters
_MAX_BODY = 1 << 24  # bytes of a line when decompressed
_PLAIN, _PACKED = 0, 1
_HEAD, _FLAGS = 3, 3  # bytes before the program's; the highest value of the first
_WRITER = "muxleak fuzz MODULE:CALLABLE writes such files"


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
        path: the file that it was read from, or "". A program that a file names is imported only
            if the user asks for it. No part of the comparison of two replays.
    """

    program: bytes = b""
    environment: bytes = b""
    wakeups: bool = False
    gaps: bool = True
    name: str = ""
    trace: str = ""
    verdict: str = ""
    steps: tuple[str, ...] = ()
    path: str = field(default="", compare=False)

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
            raise ReplayError(
                f"expected a line that starts with {MARK!r}, got {files.shown(text[:40])}"
            )
        if len(text) > _MAX_LINE:
            raise ReplayError(f"expected a line of at most {_MAX_LINE:,} characters, got more")
        word = text.removeprefix(MARK)
        try:
            data = base64.b64decode(word + "=" * (-len(word) % 4), altchars="-_", validate=True)
            return cls._unpack(data)
        except (ValueError, IndexError) as exc:
            raise ReplayError(
                f"this line was cut or changed: {text[:40]!r}; copy the whole line"
            ) from exc

    @classmethod
    def _unpack(cls, data: bytes) -> Self:
        """Read the bytes of a line.

        Raises:
            ValueError, IndexError: they are none.
        """
        kind, body = data[0], data[1:]
        if kind == _PACKED:
            body = files.inflate(body, _MAX_BODY)
        head, end = body[0], _HEAD + (body[1] << 8 | body[2])
        if kind > _PACKED or head > _FLAGS or len(body) < end:
            raise ValueError(f"expected {end} bytes or more of a known kind")
        wakeups, gaps = bool(head & 1), not head & 2
        return cls(body[_HEAD:end], body[end:], wakeups=wakeups, gaps=gaps)

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
            return replace(cls.read(files.read_text(path, _MAX_READ)), path=str(path))
        except ValueError as exc:
            raise ReplayError(f"{path}: not a replay file: {exc}; {_WRITER}") from exc

    @classmethod
    def read(cls, text: str) -> Self:
        """Read the text of a file.

        Raises:
            ReplayError, files.FileError: it is none.
        """
        content = files.from_json(text)
        found = cls.parse(files.field(content, "line", str))
        steps = files.field(content, "steps", list)
        return replace(
            found,
            name=files.field(content, "program", str),
            trace=files.field(content, "trace", str),
            verdict=files.field(content, "verdict", str),
            steps=tuple(files.checked(step, str, "a step") for step in steps),
        )

    def _text(self, steps: list[str]) -> str:
        content = {
            "program": self.name,
            "line": self.line,
            "trace": self.trace,
            "verdict": self.verdict[:400],
            "steps": steps,
        }
        return json.dumps(content, indent=1) + "\n"
