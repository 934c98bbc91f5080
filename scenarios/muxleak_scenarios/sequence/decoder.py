"""Decodes bytes into steps. Every byte string is a valid sequence."""

# A step is six bytes:
#
#   0    verb: an index into the choices of the connection's state, plus 1; 0 is no step
#   1    connection
#   2    argument: stream, handler, size, kind of malformed bytes
#   3    gap
#   4-5  decisions of the simulated network
#
# Every byte string is valid, because each byte is taken modulo the number of choices. So anything
# that produces bytes can drive a search: Hypothesis, a random campaign, a coverage-guided fuzzer.
# No input is rejected, and none has to be repaired.
#
# The choices depend on the state (`_State`): a closed connection can only be opened, one without a
# whole header can only complete it or end, and most frames name streams that are open. If verbs
# were drawn without regard to the state, fewer than half of all sequences would ever open a
# connection. `_OPEN` lists a verb several times to make it more frequent. The state is that of the
# decoder, not of the server: a stream that the server has ended still counts as open, so that late
# frames occur.
#
# Hypothesis draws the bytes as one string of fixed size. A list of steps that are drawn one by one
# costs about twenty times as much for each step, and most of the time goes into drawing. With a
# variable size Hypothesis draws near the bottom of the range (7 bytes on average, whatever the
# maximum), so the size is fixed, and shrinking makes bytes smaller instead of fewer. Each field is
# laid out so that a smaller byte is simpler:
#
#   verb 0         no step: deleting a step is setting one byte to 0, and moves no other step
#   connection 0   `a`; argument 0 the first handler or stream, and no data
#   gap            no gap is the commonest and comes first
#   network        bytes up to 128 all mean the plain course, so that most steps reach the server
#                  undisturbed; if most were disturbed, no long sequence would get anywhere
#
# The decoder reads left to right and keeps no state beyond the last whole step: a longer string
# begins with the steps of a shorter one.

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from muxleak_scenarios.sequence.steps import (
    BAD_HEADERS,
    DESTINATIONS,
    HANDLERS,
    JUNK,
    Sequence,
    Step,
)

if TYPE_CHECKING:
    from random import Random

WIDTH = 6
STEPS = 60
"""The most steps of a sequence, unless a search asks for fewer: about 15 connections."""
_NETWORK = 4
"""Offset of the bytes for the network."""
_PLAIN = 128
"""The largest network byte that means the plain course."""
CONNECTIONS = "abc"
SIZES = (0, 5, 60, 200, 300, 2000)
"""Sizes of data in bytes: none, few, less than `inbox_bytes`, half of `unread_bytes`, more than
`inbox_bytes`, and far more."""
UNKNOWN = 9
"""An id that names no stream: it is opened only after eight others of its connection."""
_KINDS = (*HANDLERS, *DESTINATIONS)
_DECISIONS = bytes(max(0, byte - _PLAIN) for byte in range(256))
_GAPS = (None, None, 0, None, 0, 1, 0, 2)


def decode(script: bytes, *, virtual: bool = True) -> Sequence:
    """Decode bytes into a sequence.

    Args:
        script: six bytes for each step; bytes after the last whole step are ignored.
        virtual: False for targets on real time: no step waits for idle intervals, which would take
            seconds, and none has decisions for the network.
    """
    state = _State(waits=virtual)
    steps = []
    for at in range(0, len(script) - WIDTH + 1, WIDTH):
        what, which, argument, gap = script[at : at + _NETWORK]
        if what:
            step = state.step(what - 1, CONNECTIONS[which % len(CONNECTIONS)], argument)
            network = script[at + _NETWORK : at + WIDTH].translate(_DECISIONS) if virtual else b""
            network = network.rstrip(b"\0")
            steps.append(step._replace(gap=_GAPS[gap % len(_GAPS)], network=network))
    return Sequence(steps)


def random_sequence(random: Random, steps: int = STEPS, *, virtual: bool = True) -> Sequence:
    """Return a random sequence.

    It costs a tenth of a draw by Hypothesis, but cannot shrink.

    Args:
        random: the source; the same state gives the same sequence.
        steps: the most steps; one in 256 is left out.
        virtual: as in `decode`.
    """
    return decode(random.randbytes(WIDTH * steps), virtual=virtual)


class _State:
    """The connections that the sequence has open, and the streams that it has opened on each."""

    def __init__(self, *, waits: bool) -> None:
        self._waits = waits
        self._streams: dict[str, list[int]] = {}
        self._headerless: set[str] = set()

    def step(self, what: int, name: str, argument: int) -> Step:
        if name not in self._streams:
            choices = _CLOSED
        elif name in self._headerless:
            choices = _HEADERLESS
        else:
            choices = _OPEN
        return choices[what % len(choices)](self, name, argument)

    def open(self, name: str, argument: int) -> Step:
        del argument
        self._streams[name] = []
        return Step("open", name)

    def connect(self, name: str, argument: int) -> Step:
        del argument
        self._streams[name] = []
        self._headerless.add(name)
        return Step("connect", name)

    def header(self, name: str, argument: int) -> Step:
        if argument % 4 == 3:  # noqa: PLR2004 - one header in four is cut in two
            return Step("header", name, size=1 + argument // 4 % 18)
        self._headerless.discard(name)
        return Step("header", name)

    def bad(self, name: str, argument: int) -> Step:
        return Step("bad", name, what=BAD_HEADERS[argument % len(BAD_HEADERS)])

    def new(self, name: str, argument: int) -> Step:
        streams = self._streams[name]
        stream = len(streams) + 1
        streams.append(stream)
        kind = _KINDS[argument % len(_KINDS)]
        return Step("new", name, stream, kind, SIZES[argument // len(_KINDS) % 4])

    def udp(self, name: str, argument: int) -> Step:
        verb = "xudp" if argument >= 128 else "udp"  # noqa: PLR2004 - one variant each
        return self.new(name, argument % len(HANDLERS))._replace(verb=verb, size=argument % 2 * 5)

    def again(self, name: str, argument: int) -> Step:
        streams = self._streams[name] or [1]
        stream = streams[argument % len(streams)]
        if not self._streams[name]:
            streams = self._streams[name] = [1]
        return Step("new", name, stream, _KINDS[argument // 16 % len(_KINDS)])

    def data(self, name: str, argument: int) -> Step:
        sizes = SIZES[1:]
        return Step(
            "data", name, self._some(name, argument), size=sizes[argument // 8 % len(sizes)]
        )

    def keep(self, name: str, argument: int) -> Step:
        stream = self._some(name, argument)
        return Step("keep", name, stream) if argument % 2 else Step("packet", name, stream, size=5)

    def end(self, name: str, argument: int) -> Step:
        size = 5 if argument >= 224 else 0  # noqa: PLR2004 - End with data is rare
        return Step("end", name, self._some(name, argument), size=size)

    def reset(self, name: str, argument: int) -> Step:
        return Step("reset", name, self._some(name, argument))

    def keepalive(self, name: str, argument: int) -> Step:
        rare = (Step("padding", name), Step("keepalive", name, size=3), Step("drip", name))
        return rare[argument % 3] if argument % 2 else Step("keepalive", name)

    def stall(self, name: str, argument: int) -> Step:
        return Step("resume" if argument % 2 else "stall", name)

    def close(self, name: str, argument: int) -> Step:
        self._forget(name)
        return Step(("close", "abort", "half")[argument % 3], name)

    def junk(self, name: str, argument: int) -> Step:
        self._forget(name)
        return Step("junk", name, what=JUNK[argument % len(JUNK)])

    def cut(self, name: str, argument: int) -> Step:
        self._forget(name)
        return Step("cut", name, size=1 + argument % 13)

    def cancel(self, name: str, argument: int) -> Step:
        # Rare, because they end much: no stream can be opened after a cancel, and no connection is
        # open after a wait.
        if argument % 2 == 0:
            return Step("cancel")
        if not self._waits or argument % 4 != 1:
            return self.keepalive(name, argument)
        self._streams.clear()
        self._headerless.clear()
        return Step("wait")

    def _some(self, name: str, argument: int) -> int:
        streams = self._streams[name]
        return streams[argument % len(streams)] if streams and argument % 8 else UNKNOWN

    def _forget(self, name: str) -> None:
        del self._streams[name]
        self._headerless.discard(name)


_Choice = Callable[[_State, str, int], Step]
_CLOSED: tuple[_Choice, ...] = (*[_State.open] * 5, _State.connect, _State.bad)
_HEADERLESS: tuple[_Choice, ...] = (_State.header, _State.close, _State.cut)
_OPEN: tuple[_Choice, ...] = (
    *[_State.new] * 5,
    *[_State.data] * 6,
    *[_State.close] * 4,
    *[_State.end] * 3,
    *[_State.again] * 2,
    _State.udp,
    _State.keep,
    _State.reset,
    _State.keepalive,
    _State.stall,
    _State.stall,
    _State.junk,
    _State.cut,
    _State.cancel,
)
