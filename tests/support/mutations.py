"""Mutated files and bytes for every reader: only documented errors, no growth, nothing slow.

Each subject has samples that are right, and a function that reads bytes as the product does. A case
is a sample that was mutated by a seeded random source, so that its number and the seed give it
again. A reader either refuses it with a documented error, or accepts a value that is written and
read back equal.
"""

import asyncio
import ctypes
import gc
import json
import os
import tempfile
import time
from codecs import getincrementaldecoder
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

import click

from muxleak.files import FileError
from muxleak.introspect.sites import SiteFrame
from muxleak.monitor.endpoint import Page, _Connection
from muxleak.plugin import baseline
from muxleak.sim import Replay, ReplayError
from muxleak.sim.replay import RecordedGroup
from muxleak_scenarios.cli import hunt, replay, replay_program
from muxleak_scenarios.hunt import findings
from muxleak_scenarios.hunt.stacks import StackParser
from muxleak_vless.address import Address, NetworkType
from muxleak_vless.errors import FrameError, HeaderError, TruncatedError
from muxleak_vless.frames import Frame, FrameDecoder, FrameStatus, encode_frame
from muxleak_vless.header import (
    Addons,
    Command,
    Request,
    RequestDecoder,
    Response,
    ResponseDecoder,
    encode_request,
    encode_response,
)
from muxleak_vless.packets import PacketDecoder, encode_packet

LONGEST = 2_000  # characters of a message
SLOWEST = 1.0  # seconds of CPU time of one case
_MEASURED = 10_000  # cases from which on growth is measured
_PAGE = os.sysconf("SC_PAGE_SIZE")

Mutate = Callable[[Random, bytes], bytes]
Read = Callable[[bytes, Random], object]


class Subject(NamedTuple):
    """A reader.

    Attributes:
        samples: bytes that it accepts.
        read: reads bytes, and checks that an accepted value comes back equal.
        errors: the classes of its documented errors, without their subclasses.
        structural: mutates the structure that the format has.
    """

    samples: tuple[bytes, ...]
    read: Read
    errors: tuple[type[Exception], ...]
    structural: Mutate


class Figures(NamedTuple):
    """The figures of a run.

    Attributes:
        cases: mutated inputs that were read.
        accepted: those that the reader accepted.
        refused: number of each class of error.
        seconds: CPU time of all.
        slowest: CPU time of the slowest case, in seconds.
        grown: growth of the resident memory after the first tenth, in bytes, without free memory;
            0 for few cases.
        tasks: growth of the number of asyncio tasks; 0 for few cases.
    """

    cases: int
    accepted: int
    refused: dict[str, int]
    seconds: float
    slowest: float
    grown: int
    tasks: int

    def __str__(self) -> str:
        refused = ", ".join(f"{count:,} {name}" for name, count in sorted(self.refused.items()))
        return (
            f"{self.cases:,} cases: {self.accepted:,} accepted, {refused}; "
            f"{self.seconds:.0f} s, slowest {self.slowest * 1e3:.0f} ms, "
            f"memory {self.grown / 1e6:+.1f} MB, tasks {self.tasks:+d}"
        )


class MutationError(AssertionError):
    """A case that a reader does not stand; the message holds the input."""


def run(name: str, count: int, seed: int = 0, tick: Callable[[int], object] = id) -> Figures:
    """Read mutated inputs of one subject.

    Args:
        name: of `SUBJECTS`.
        count: number of cases.
        seed: of the random source.
        tick: called with the number of each case.

    Raises:
        MutationError: a case raised another error, took too long, or came back different.
    """
    subject = SUBJECTS[name]()
    random = Random(f"{name} {seed}")
    refused: Counter[str] = Counter()
    # Both walk the heap, which is large in a session of tests, and a few cases show no growth.
    measured = count >= _MEASURED
    slowest, memory, tasks = 0.0, 0, _tasks() if measured else 0
    begun = time.process_time()
    for number in range(count):
        if measured and number == count // 10:
            memory = _memory()
        data = mutated(subject, random)
        start = time.process_time()
        try:
            subject.read(data, random)
        except subject.errors as error:
            _check(error, subject, data)
            refused[type(error).__name__] += 1
        except BaseException as error:
            raise MutationError(
                f"{name}, case {number} of seed {seed}: {error!r}: {data!r}"
            ) from error
        took = time.process_time() - start
        slowest = max(slowest, took)
        if took > SLOWEST:
            raise MutationError(
                f"{name}, case {number} of seed {seed}: {took:.1f} s: {data[:500]!r}"
            )
        tick(number)
    seconds = time.process_time() - begun
    growth = (_memory() - memory, _tasks() - tasks) if measured else (0, 0)
    return Figures(count, count - refused.total(), dict(refused), seconds, slowest, *growth)


def mutated(subject: Subject, random: Random) -> bytes:
    """Return a sample with one to three mutations."""
    data = random.choice(subject.samples)
    for _ in range(random.choice((1, 1, 2, 3))):
        match random.randrange(6):
            case 0 | 1:
                data = subject.structural(random, data)
            case 2:
                data = data[: random.randrange(len(data) + 1)]
            case 3:
                other = random.choice(subject.samples)
                data = data[: _at(random, data)] + other[_at(random, other) :]
            case _:
                data = _bytes(random, data)
    return data


def _check(error: Exception, subject: Subject, data: bytes) -> None:
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    if type(error) not in subject.errors:
        raise MutationError(f"an error of another class: {error!r}: {data!r}")
    if isinstance(error, click.ClickException) and error.exit_code != 2:
        raise MutationError(f"exit code {error.exit_code}: {data!r}")
    if not text or len(text) > LONGEST or not _encodes(text):
        raise MutationError(f"a message that cannot be shown: {text!r}: {data!r}")


def _encodes(text: str) -> bool:
    with suppress(UnicodeEncodeError):
        return bool(text.encode())
    return False


def _memory() -> int:
    gc.collect()
    # Free memory that the allocator keeps is no growth of the program's.
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _tasks() -> int:
    return sum(isinstance(each, asyncio.Task) for each in gc.get_objects())


# Mutations.


def _at(random: Random, data: bytes) -> int:
    return random.randrange(len(data) + 1)


def _bytes(random: Random, data: bytes) -> bytes:
    """Change, insert or remove some bytes."""
    at = _at(random, data)
    new = random.choice((b"\0", b"\xff", b"\x80", b"\n", b'"', b"\\", b"[", b"{", b".", b"9" * 30))
    match random.randrange(5):
        case 0:
            return data[:at] + new + data[at:]
        case 1:
            return data[:at] + data[at + random.randrange(1, 9) :]
        case 2:
            return data[:at] + random.randbytes(random.randrange(1, 5)) + data[at + 1 :]
        case 3:
            return data[:at] + data[at : at + 40] * random.randrange(2, 9) + data[at:]
        case _:
            bit = 1 << random.randrange(8)
            return data[:at] + bytes(each ^ bit for each in data[at : at + 1]) + data[at + 1 :]


_DEEP: Any = []
for _ in range(40):
    _DEEP = [_DEEP]
_JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 1e300, float("inf"), float("nan"), 10**18, 10**30),
    *("", "x", "x" * 5_000, "\ud800", "\0\x1b[2J", "a:open", [], {}, [[]], {"": None}, _DEEP),
)


def _json(random: Random, data: bytes) -> bytes:
    """Replace, remove, rename or repeat a value of a JSON text."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return _bytes(random, data)
    holder: Any = {"": value}
    places: list[tuple[Any, Any]] = [(holder, "")]
    for box, key in places:
        inner = box[key]
        if isinstance(inner, dict):
            places += [(inner, each) for each in inner]
        elif isinstance(inner, list):
            places += [(inner, each) for each in range(len(inner))]
        if len(places) > 500:
            break
    box, key = random.choice(places)
    match random.randrange(4):
        case 0 if box is not holder:
            del box[key]
        case 1 if isinstance(box, dict) and box is not holder:
            box[random.choice(("x", "", "\udc80", "line", "counts"))] = box.pop(key)
        case 2 if isinstance(box, list):
            box.extend([box[key]] * random.randrange(1, 5))
        case _:
            box[key] = random.choice(_JUNK)
    text = json.dumps(holder[""], ensure_ascii=random.random() < 0.5)
    if random.random() < 0.05:
        # One key twice.
        text = text.replace("{", '{"line": 1, "findings": 2, ', 1)
    return text.encode("utf-8", "surrogatepass")


_WORDS = (
    *(b"Host: x\r\n", b"\r\n", b"Host: [::1]", b"Origin: null", b"http://[", b"//", b"\r\n :"),
    *(b'# labels: {"created_by":"\\ud800"}', b'# labels: {"created_by":' + b"[" * 5_000, b"\n\n"),
    *(b"goroutine profile: total 2", b"2 @ 0x1", b"9" * 5_000 + b" @", b"created by", b"+0x1"),
    *(b"inf", b"nan", b"-1", b"true", b"[1]", b"{a=1}", b"'x'", b'"""', b"'''", b"1979-05-27"),
    *(b'"x"', b"9" * 30, b"9" * 5_000, b"[" * 50, b"a" + b".a" * 50, b"[[x]]", b"=", b"#", b"\t"),
    *(b"V1", b"REF", b"live_id_reused/buggy", b"x" * 5_000, b"a:open", b"b:data:7+99999", b"wait"),
    *(b"a:new:1:echo+5~0^00ff", b"cancel~1001", b"a:new:70000:echo", b"\xef\xbb\xbf", b"\xc3\x28"),
)


def _text(random: Random, data: bytes) -> bytes:
    """Replace, remove, repeat or move a word or a line."""
    space = random.choice((b" ", b"\n"))
    parts = data.split(space)
    at = random.randrange(len(parts))
    match random.randrange(4):
        case 0:
            parts[at] = random.choice(_WORDS)
        case 1:
            del parts[at]
        case 2:
            parts[at:at] = [parts[at]] * random.randrange(1, 4)
        case _:
            parts.insert(random.randrange(len(parts)), parts.pop(at))
    return space.join(parts)


def _wire(random: Random, data: bytes) -> bytes:
    """Overwrite a length, or repeat or move a piece."""
    at, size = _at(random, data), random.choice((1, 2, 4, 16, 60))
    piece = data[at : at + size]
    match random.randrange(3):
        case 0:
            length = random.choice((0, 1, 3, 4, 512, 513, len(data), 0x7FFF, 0xFFFF))
            return data[:at] + length.to_bytes(2, "big") + data[at + 2 :]
        case 1:
            return data[:at] + piece + data[at:]
        case _:
            rest = data[:at] + data[at + size :]
            to = _at(random, rest)
            return rest[:to] + piece + rest[to:]


# Readers. A file is read by the function that the command calls, with its errors.


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    memory = "/dev/shm"  # noqa: S108 - a folder of its own in it
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


def _file(name: str, data: bytes) -> Path:
    path = Path(_folder().name, name)
    path.write_bytes(data)
    return path


def _same(one: object, other: object) -> None:
    if one != other:
        raise AssertionError(f"came back different: {one!r}, {other!r}")


def _read_run(data: bytes, _: Random) -> None:
    path = _file("found.sim.json", data)
    recorded = replay_program.recorded_run([str(path)])
    assert recorded is not None
    found, _words = recorded
    # A file with more than a file may hold can be read, and is not written again.
    with suppress(ReplayError):
        again = Replay.read(found.to_bytes().decode())
        shown = again.steps[:-1] if again.steps[-1:] == ("...",) else again.steps
        _same((*found.steps[: len(shown)], found.verdict[:400]), (*shown, again.verdict))
        _same(found.groups[: len(again.groups)], again.groups)
        for name in ("line", "kind", "name", "trace", "signature", "messages", "target"):
            _same(getattr(found, name), getattr(again, name))


def _read_line(data: bytes, _: Random) -> None:
    found = Replay.parse(data.decode("latin-1"))
    _same(Replay.parse(found.line), found)


def _read_lines(data: bytes, _: Random) -> None:
    path = _file("found.seq", data)
    for line, parsed in replay.parsed((str(path),), None):
        _same(replay.parsed((str(parsed),), None)[0][1], parsed)
        assert line.text


def _read_baseline(data: bytes, _: Random) -> None:
    found = baseline.read(_file("leaks.toml", data))
    leaks = {owner: counts for owner, counts in found.items() if counts}
    _same(baseline.parse(baseline.text(found)), leaks)


def _read_findings(data: bytes, _: Random) -> None:
    found = hunt.read_known(_file("found.hunt.json", data))
    again = findings.read(findings.write(found))
    for one, other in zip(found, again, strict=True):
        _same(
            (one.sequence, one.growth.held, one.died),
            (other.sequence, other.growth.held, other.died),
        )
    if again:
        findings.Known(found).explains(again[0].growth)
        findings.Known(found).shows(again[0].sequence)


def _cuts(data: bytes, random: Random) -> list[bytes]:
    """Cut bytes into up to four pieces."""
    places = sorted(_at(random, data) for _ in range(random.randrange(4)))
    return [data[start:stop] for start, stop in zip([0, *places], [*places, None], strict=True)]


def _ends(read: Callable[[Iterable[bytes]], object], data: bytes, random: Random) -> None:
    """Read bytes whole and cut; raise the error, which must be the same."""
    outcomes: list[object] = []
    errors: list[Exception] = []
    for pieces in ([data], _cuts(data, random)):
        try:
            outcomes.append(read(pieces))
        except (HeaderError, FrameError, TruncatedError, ValueError) as error:
            errors.append(error)
            outcomes.append((type(error), error.args))
    _same(outcomes[0], outcomes[1])
    if errors:
        raise errors[0]


def _header(make: Callable[[], Any], encode: Callable[[Any], bytes]) -> Read:
    def read(pieces: Iterable[bytes]) -> object:
        decoder, found, rest = make(), None, b""
        for piece in pieces:
            if found is None:
                found = decoder.receive_data(piece)
                rest = decoder.trailing
            else:
                rest += piece
        decoder.receive_eof()
        if found is not None:
            _same(make().receive_data(encode(found)), found)
        return found, rest

    return lambda data, random: _ends(read, data, random)


def _read_frames(data: bytes, random: Random) -> None:
    def read(pieces: Iterable[bytes]) -> object:
        decoder, frames = FrameDecoder(), []
        try:
            for piece in pieces:
                decoder.receive_data(piece)
                while (frame := decoder.next_frame()) is not None:
                    frames.append(frame)
            decoder.receive_eof()
        finally:
            written = b"".join(map(encode_frame, frames))
            _same(written, data[: len(written)])
        return frames

    _ends(read, data, random)


def _read_profile(data: bytes, random: Random) -> None:
    def read(pieces: Iterable[bytes]) -> object:
        parser, decoder = StackParser(), getincrementaldecoder("utf-8")("replace")
        for piece in pieces:
            parser.feed(decoder.decode(piece))
        parser.feed(decoder.decode(b"", final=True))
        stacks = parser.close()
        json.dumps(sorted(stacks), ensure_ascii=False).encode()
        return stacks

    _ends(read, data, random)


def _read_request(data: bytes, _: Random) -> None:
    # Without a loop and a transport, which an answer needs, and not the page.
    loop: Any = None
    connection = _Connection(loop, {"/": lambda: Page(b"")}, {"localhost"}, {})
    page = connection._page(data)
    if page.status != HTTPStatus.OK:
        raise ValueError(page.text.decode())


def _read_packets(data: bytes, random: Random) -> None:
    def read(pieces: Iterable[bytes]) -> object:
        decoder, packets = PacketDecoder(), []
        for piece in pieces:
            decoder.receive_data(piece)
            while (packet := decoder.next_packet()) is not None:
                packets.append(packet)
        written = b"".join(map(encode_packet, packets))
        _same(written, data[: len(written)])
        decoder.receive_eof()
        return packets

    _ends(read, data, random)


# Samples.

_STACK = ("muxleak_vless/session.py:83", "runtime.gopark", 'a "quoted" \\ name [x]')
_RUNS = (
    Replay(),
    Replay(
        b"\1\2",
        b"\3" * 40,
        wakeups=True,
        gaps=False,
        name="chat:main",
        trace="ab" * 16,
        verdict="LeakError: 1",
        steps=("a", "b"),
    ),
    Replay(bytes(range(200)), bytes(500) + b"\7", name="a.b:c.d", steps=("step [1] {2}",) * 9),
    Replay(
        b"\1",
        kind="server",
        name="chat:start",
        signature="ab" * 8,
        messages=("hello\\n", "\\xff"),
        target="tcp",
        groups=(RecordedGroup("task", 2, "ping", (SiteFrame("chat.py", 11, "serve"),) * 2),),
    ),
    Replay(kind="sequence", name="V1", notation="a:open~0 a:close"),
)
_EARLIER = {"program": "chat:main", "line": _RUNS[1].line, "trace": "", "verdict": "", "steps": []}
_LINES = (
    "# comment\n\nlive_id_reused/buggy a:open a:new:1:echo a:new:1:echo a:close  # expect: clean\n",
    "V1 a:open~0 a:new:7:@echo+5~3^01ff a:data:7+9 cancel wait a:half b:bad:flow\nREF a:open\n",
)
_COUNTS = [{"held": 3, "kept": 1, "stack": list(_STACK)}, {"held": 1, "kept": 0, "stack": ["x"]}]
_FINDING = {
    "sequence": "a:open a:new:1:@echo a:end:1 a:close",
    "exact": True,
    "counts": _COUNTS,
    "gone_after_seconds": 12.5,
    "died": None,
    "log": [],
}
_BASELINES = (
    {"tests/test_a.py::test[1.5-x]": {"task app.py in C.f": 2, "timer <string> in g": 1}},
    {"a": {"b": 1}, "t.py: fixture db": {'transport "x" \\ in h': 10**9}, "e": {}},
)
_ADDRESS = Address.of("example.com", 443)
_FRAMES = (
    Frame.new(1, NetworkType.TCP, _ADDRESS, b"hello"),
    Frame.new(2, NetworkType.UDP, Address.of("127.0.0.1", 53), b"q", b"12345678"),
    Frame.keep(1, b"x" * 300),
    Frame.keep(2, b"", Address.of("::1", 9)),
    Frame(3, FrameStatus.KEEP_ALIVE, 0x81, data=b"", padding=b"pad"),
    Frame.end(1, error=True),
)
_GROUPED = (
    "goroutine profile: total 3\n2 @ 0x1 0x2\n"
    '# labels: {"created_by":"a.py:1 in f","task":"x"}\n'
    "#\t0x1\tmain.(*T).wait+0x26\ta.go:5\n#\t0x2\tmain.main+0x4e\ta.go:9\n\n"
    "1 @ 0x3\n#\t0x3\tnet/http.(*conn).serve+0x1\tb.go:1\n\n"
)
_LISTED = (
    "goroutine 1 [chan receive, 5 minutes]:\nmain.f(0x1, {0x2})\n\t/a.go:5 +0x26\n"
    "created by main.main in goroutine 7\n\t/a.go:9 +0x4e\n\n"
    "goroutine 9 gp=0x1 m=nil [select] {tenant: acme]}:\nmain.g()\n\t/a.go:6 +0x1\n"
)
_USER = UUID(int=0x1234)
_REQUESTS = (
    Request(_USER, Command.MUX),
    Request(_USER, Command.TCP, _ADDRESS),
    Request(_USER, Command.UDP, Address.of("10.0.0.1", 53), Addons("xtls-rprx-vision", b"seed")),
)


def _run_subject() -> Subject:
    samples = (*(each.to_bytes() for each in _RUNS), json.dumps(_EARLIER).encode())
    return Subject(samples, _read_run, (click.UsageError,), _json)


def _line_subject() -> Subject:
    samples = tuple(each.line.encode() for each in _RUNS if each.kind != "sequence")
    return Subject(samples, _read_line, (ReplayError,), _text)


def _lines_subject() -> Subject:
    samples = tuple(each.encode() for each in _LINES)
    return Subject(samples, _read_lines, (click.UsageError,), _text)


def _baseline_subject() -> Subject:
    samples = tuple(baseline.text(each).encode() for each in _BASELINES)
    return Subject(samples, _read_baseline, (FileError, ValueError), _text)


def _findings_subject() -> Subject:
    found = [_FINDING, {**_FINDING, "died": "killed", "counts": []}]
    texts = (json.dumps({"muxleak_hunt": 1, "findings": each}) for each in (found, found[:1], []))
    read = findings.read(json.dumps({"muxleak_hunt": 1, "findings": found}))
    samples = (*(each.encode() for each in texts), findings.write(read, "127.0.0.1:1").encode())
    return Subject(samples, _read_findings, (click.BadParameter,), _json)


def _request_subject() -> Subject:
    samples = tuple(encode_request(each) + b"more" for each in _REQUESTS)
    read = _header(RequestDecoder, encode_request)
    return Subject(samples, read, (HeaderError, TruncatedError), _wire)


def _response_subject() -> Subject:
    samples = tuple(encode_response(Response(0, each)) + b"more" for each in (b"", b"x" * 255))
    read = _header(ResponseDecoder, encode_response)
    return Subject(samples, read, (HeaderError, TruncatedError), _wire)


def _frames_subject() -> Subject:
    frames = [encode_frame(each) for each in _FRAMES]
    return Subject(
        (b"".join(frames), b"".join(frames[2:]), frames[0]),
        _read_frames,
        (FrameError, TruncatedError),
        _wire,
    )


def _profile_subject() -> Subject:
    samples = (_GROUPED.encode(), _LISTED.encode())
    return Subject(samples, _read_profile, (ValueError,), _text)


def _debug_subject() -> Subject:
    head = b"GET / HTTP/1.1\r\nHost: localhost:6060\r\nOrigin: http://localhost\r\nX: y"
    target = b"GET http://localhost/?debug=1 HTTP/1.0\r\nHost: LOCALHOST."
    return Subject((head, target), _read_request, (ValueError,), _text)


def _packets_subject() -> Subject:
    packets = [encode_packet(each) for each in (b"", b"x", b"y" * 700)]
    return Subject((b"".join(packets), packets[2]), _read_packets, (TruncatedError,), _wire)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "replay file of a program": cache(_run_subject),
    "replay line of a program": cache(_line_subject),
    "replay file of lines": cache(_lines_subject),
    "baseline": cache(_baseline_subject),
    "findings of a hunt": cache(_findings_subject),
    "VLESS request header": cache(_request_subject),
    "VLESS response header": cache(_response_subject),
    "mux.cool frames": cache(_frames_subject),
    "UDP packets": cache(_packets_subject),
    "goroutine profile": cache(_profile_subject),
    "request of the debug endpoint": cache(_debug_subject),
}
