"""A run as one line, and as one small file: both give the same trace on every supported Python."""

import base64
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

MARK = "sim1:"
"""How a line begins."""
SUFFIX = ".sim.json"
"""How the name of a file ends; what collects such files looks at no others."""
_MAX_FILE = 4096  # bytes
_PLAIN, _PACKED = 0, 1


class ReplayError(ValueError):
    """A line or file that no replay was written to, or that was changed since."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What is needed to run a program again in the same way.

    Attributes:
        program: the bytes that the program draws from.
        environment: the bytes of the simulation's decisions.
        wakeups: whether task wake-ups are permuted.
        gaps: whether gaps are drawn.
        name: the program, as "module:qualified name"; only the file has it, and what follows.
        trace: the hash that the run must have; not checked if empty.
        verdict: what went wrong, in one line.
        steps: what the program said it did.
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
        """The run as one word."""
        head = self.wakeups | (not self.gaps) << 1
        size = len(self.program)
        body = bytes([head, size >> 8, size & 255]) + self.program + self.environment
        packed = zlib.compress(body, 9)
        data = bytes([_PACKED]) + packed if len(packed) < len(body) else bytes([_PLAIN]) + body
        return MARK + base64.urlsafe_b64encode(data).decode().rstrip("=")

    @classmethod
    def parse(cls, line: str) -> Self:
        """The run that a line stands for.

        Raises:
            ReplayError: it stands for none.
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
        """Write the file; steps that do not fit are left out of it, the bytes never.

        Raises:
            ReplayError: the bytes alone are too many.
        """
        Path(path).write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of the file, at most 4 KB.

        Raises:
            ReplayError: as `save`.
        """
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
            ReplayError: it is not one.
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
