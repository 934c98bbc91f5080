"""Replays: a run as one line, and as one small file, of programs, servers, pairs and hunts alike.

The line and the file of a run that is simulated lead to the same trace on every supported Python.
"""

# The line of a program or server is "sim1:" and base64 (URL alphabet, no padding) of
#
#   one byte     0: what follows is plain; 1: it is compressed with zlib, where that is shorter
#   one byte     bit 0: wake-ups are permuted; bit 1: gaps are not drawn
#   two bytes    length of the program's bytes, big-endian
#   the bytes    first the program's, then the environment's
#
# "sim1" is the version of this layout. The line of a pair, a version or a hunt is the notation of
# its sequence.
#
# The file holds the line and the facts that a person or another process needs, as JSON. All files
# are written and read here, of every kind of subject (`KINDS`). Version 1, of programs only, had
# the subject under "program", no number of its version, and fewer facts; it is still read. Version
# 2 repeats the name of a program there, so that earlier releases can run it.
#
# A file of one run has at most 4 KB, so that a folder of them stays readable and can be committed:
# steps and creation sites that do not fit are left out, a byte of the line never. A reader takes
# more, since editors and version control may change the space in it. A file of several runs, as
# hunts write it, has them under "findings".
#
# A file names its program, and to run that its module must be imported, which runs code. A file may
# come from anybody, in a bug report for instance. So every user of a file asks for the program by
# itself, or for trust in the file: `Replay.path` says that a name came from a file.

import base64
import json
import platform
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from muxleak import files
from muxleak.introspect.sites import SiteFrame, short_path

MARK = "sim1:"
"""The first characters of every line of a program or server."""
SUFFIX = ".sim.json"
"""The end of a replay file's name; the pytest plugin collects no other files."""
VERSION = 2
"""The version of the files that are written."""
PROGRAM, SERVER, SEQUENCE, HUNT = KINDS = ("program", "server", "sequence", "hunt")
"""The kinds of subjects: `find_leaks`, `check_server`, a pair or version, a server from outside."""
_HUNTS, _HUNTS_VERSION = "muxleak_hunt", 1  # the mark and version of details of hunts
_IMPORTED = (PROGRAM, SERVER)
_TARGETS = ("", "tcp", "uvloop")
_MAX_FILE = 4096  # bytes
_MAX_READ = 1 << 16  # bytes of a file
_MAX_LINE = 1 << 22  # characters
_MAX_BODY = 1 << 24  # bytes of a line when decompressed
_PLAIN, _PACKED = 0, 1
_HEAD, _FLAGS = 3, 3  # bytes before the program's; the highest value of the first
_WRITER = "muxleak fuzz MODULE:CALLABLE writes such files"

_T = TypeVar("_T")


class ReplayError(ValueError):
    """A line or file is no replay, or was changed, or its program no longer does the same."""


@dataclass(frozen=True, slots=True)
class RecordedGroup:
    """A group of a recorded leak.

    Attributes:
        kind: one of `muxleak.ledger.kinds.KINDS`.
        count: number of members.
        name: the name of the members in reports.
        created: the frames of the creation site, innermost first, without absolute paths.
    """

    kind: str
    count: int
    name: str
    created: tuple[SiteFrame, ...]


@dataclass(frozen=True, slots=True)
class Replay:
    """The facts by which a subject runs again in the same way.

    The line holds the first four, or the notation; the file holds all.

    Attributes:
        program: the bytes that the program draws from.
        environment: the bytes of the simulation's decisions.
        wakeups: True if task wake-ups are permuted.
        gaps: True if gaps are drawn.
        name: the subject: a program or server as "module:qualified name", a pair or version, or the
            address of a server that was hunted.
        trace: the hash that the run must have; not checked if empty.
        verdict: the error of the run, in one line.
        steps: the steps in words, each fault that was drawn at its place.
        path: the file that it was read from, or "". A program that a file names is imported only
            if the user asks for it. No part of the comparison of two replays.
        kind: one of `KINDS`.
        notation: the sequence of a pair, a version or a hunt.
        signature: a hash that is equal for runs that fail in the same way; "" if unknown.
        groups: the groups of a leak.
        messages: the messages of a server's clients, with the escapes of Python's bytes.
        target: the loop and network of a sequence; "" for the simulation.
        details: further facts of the kind, as plain data.
        versions: the versions of muxleak and Python that recorded the run, by name.
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
    kind: str = PROGRAM
    notation: str = ""
    signature: str = ""
    groups: tuple[RecordedGroup, ...] = ()
    messages: tuple[str, ...] = ()
    target: str = ""
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)
    versions: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def line(self) -> str:
        """The decisions as one word, or the sequence in its notation, after its subject if any."""
        if self.kind not in _IMPORTED:
            return (
                f"{self.name} {self.notation}".strip() if self.kind == SEQUENCE else self.notation
            )
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
        """Write the file; leave out groups and steps that do not fit, but never a byte.

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
        shown, kept = self, len(self.steps)
        while len(text := _text(shown.to_json()).encode()) > _MAX_FILE:
            if len(shown.groups) > 1 or (shown.groups and not kept):
                shown = replace(shown, groups=shown.groups[: len(shown.groups) // 2])
            elif kept:
                kept //= 2
                shown = replace(shown, steps=(*self.steps[:kept], "...") if kept else ())
            else:
                raise ReplayError(
                    f"{len(text)} bytes are more than a replay may have; shrink first"
                )
        return text

    def to_json(self) -> dict[str, Any]:
        """Return the facts as plain data, without the versions."""
        content: dict[str, Any] = {"kind": self.kind, "subject": self.name}
        if self.kind == PROGRAM:
            content["program"] = self.name
        content |= {"line": self.line, "trace": self.trace, "verdict": self.verdict[:400]}
        if self.messages:
            content["messages"] = list(self.messages)
        if self.target:
            content["target"] = self.target
        content |= {"signature": self.signature, "steps": list(self.steps)}
        content["groups"] = [
            {
                "kind": group.kind,
                "count": group.count,
                "name": group.name,
                "created": [
                    {"file": frame.filename, "line": frame.line, "function": frame.function}
                    for frame in group.created
                ],
            }
            for group in self.groups
        ]
        return {**content, **self.details}

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a file of one run.

        Raises:
            ReplayError: the file is no replay.
            OSError: the file cannot be read.
        """
        try:
            return replace(cls.read(files.read_text(path, _MAX_READ)), path=str(path))
        except ValueError as exc:
            raise ReplayError(f"{path}: not a replay file: {exc}; {_WRITER}") from exc

    @classmethod
    def of(cls, source: Path | str) -> Self:
        """Read a line, or the file of a path.

        Raises:
            ReplayError: it is none.
            OSError: the file cannot be read.
        """
        is_path = isinstance(source, Path) or Path(source).suffix == ".json"
        return cls.load(source) if is_path else cls.parse(str(source))

    @classmethod
    def read(cls, text: str) -> Self:
        """Read the text of a file of one run.

        Raises:
            ReplayError, files.FileError: it is none.
        """
        content = files.from_json(text)
        versions = _versions(content)
        if versions is None:
            return cls._from_json({"subject": files.field(content, "program", str), **content})
        if "findings" in content or files.field(content, "kind", str) == HUNT:
            raise ReplayError(
                "expected a run that needs no server, got those of a hunt, which muxleak hunt "
                "HOST:PORT --replay FILE measures again"
            )
        return replace(cls._from_json(content), versions=versions)

    @classmethod
    def _from_json(cls, content: object) -> Self:
        """Read the data of `to_json`; those of version 1 have no kind, and fewer facts.

        Raises:
            ReplayError, files.FileError: the data is of another form.
        """
        kind = _optional(content, "kind", str) or PROGRAM
        if kind not in KINDS:
            raise ReplayError(
                f"'kind': expected one of {', '.join(KINDS)}, got {files.shown(kind)}"
            )
        target = _optional(content, "target", str)
        if target not in _TARGETS:
            raise ReplayError(f"'target': expected tcp, uvloop or none, got {files.shown(target)}")
        name, line = (files.field(content, each, str) for each in ("subject", "line"))
        if kind in _IMPORTED:
            found = cls.parse(line)
        elif kind == SEQUENCE and not line.startswith(f"{name} "):
            raise ReplayError(
                f"expected a line that starts with {files.shown(name)}, got {files.shown(line)}"
            )
        else:
            found = cls(notation=line.removeprefix(f"{name} " if kind == SEQUENCE else ""))
        return replace(
            found,
            kind=kind,
            name=name,
            trace=files.field(content, "trace", str),
            verdict=files.field(content, "verdict", str),
            steps=_texts(files.field(content, "steps", list), "a step"),
            signature=_optional(content, "signature", str),
            groups=tuple(map(_group, _optional(content, "groups", list))),
            messages=_texts(_optional(content, "messages", list), "a message"),
            target=target,
        )


def text_of_all(replays: Iterable[Replay]) -> str:
    """Return the text of a file of the runs of a hunt."""
    findings = [each.to_json() for each in replays]
    return _text({_HUNTS: _HUNTS_VERSION, "findings": findings})


def read_all(text: str) -> list[object]:
    """Read the text of a file of the runs of a hunt.

    Returns:
        The plain data of each run, of which `Replay.details` were made.

    Raises:
        ReplayError, files.FileError: it is none.
    """
    content = files.from_json(text)
    version = files.field(content, _HUNTS, int)
    if version != _HUNTS_VERSION:
        raise ReplayError(f"got version {version}")
    findings = files.field(content, "findings", list)
    if _versions(content) is not None:
        for each in findings:
            Replay._from_json(each)  # noqa: SLF001 - checked by the class that has written it
    return findings


def recorded_groups(groups: Iterable[Any]) -> tuple[RecordedGroup, ...]:
    """Return the groups of a report (`LeakGroup`) as a file has them."""
    return tuple(
        RecordedGroup(
            each.kind,
            each.count,
            each.name,
            tuple(frame._replace(filename=short_path(frame.filename)) for frame in each.created),
        )
        for each in groups
    )


def _text(content: Mapping[str, Any]) -> str:
    from importlib import metadata  # noqa: PLC0415 - slow to import, and few runs write a file

    try:
        ours = metadata.version("muxleak")
    except metadata.PackageNotFoundError:
        ours = ""
    versions = {"muxleak": ours, "python": platform.python_version()}
    return json.dumps({"muxleak_replay": VERSION, **content, "versions": versions}, indent=1) + "\n"


def _versions(content: object) -> dict[str, str] | None:
    """Return the versions that recorded a file; None if it is of version 1, which has none.

    Raises:
        ReplayError, files.FileError: the file is of a later version, or none.
    """
    version = _optional(content, "muxleak_replay", int)
    if not version:
        return None
    if version != VERSION:
        raise ReplayError(f"expected version {VERSION} or earlier, got version {version}")
    found = files.field(content, "versions", dict)
    return {each: files.field(found, each, str) for each in ("muxleak", "python")}


def _optional(content: object, name: str, kind: type[_T]) -> _T:
    """Return a field of a JSON object, or the empty value of its type if it has none."""
    found = files.checked(content, dict, "the content")
    return files.field(found, name, kind) if name in found else kind()


def _texts(values: Sequence[object], name: str) -> tuple[str, ...]:
    return tuple(files.checked(each, str, name) for each in values)


def _group(data: object) -> RecordedGroup:
    frames = [
        SiteFrame(
            files.field(each, "file", str),
            files.field(each, "line", int),
            files.field(each, "function", str),
        )
        for each in files.field(data, "created", list)
    ]
    kind, name = (files.field(data, each, str) for each in ("kind", "name"))
    return RecordedGroup(kind, files.field(data, "count", int), name, tuple(frames))
