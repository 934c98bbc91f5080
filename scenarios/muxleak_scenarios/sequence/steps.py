"""The steps of connection sequences, and their notation in one line."""

# A sequence is a list of steps, separated by spaces:
#
#   a:open a:new:1:echo+5 a:end:1~0 cancel
#
# A step is
#
#   CONNECTION:VERB[:STREAM][:WHAT][+BYTES][~GAP][^HEX]    or    cancel[...]    or    wait[...]
#
#   CONNECTION   one letter; a second `open` under a letter closes the first connection
#   STREAM       the id in the frame, which may name a stream that was never opened
#   WHAT         the handler or destination of a stream, or the kind of malformed bytes
#   +BYTES       the size of the data; its bytes come from the client model
#   ~GAP         iterations of the server's loop before the next step; without it the server
#                settles, and with ~0 the next step falls into the same iteration
#   ^HEX         decisions of the simulated network until the next step, two digits each: when an
#                arrival is seen, in which order, and how it is cut; 00 is the plain course (at
#                once, in order, whole), and so is every decision that is not given; a real
#                network decides for itself
#
# The notation is the record of a run. It is what a search reports, a replay file stores and a
# person edits; the bytes that a search draws are never shown. So it must say everything that
# influences a run: with the gap and the network in it, a race replays like any other run. It prints
# what it reads (`str` and `parse` are inverses), and trailing zeros of ^HEX, which say nothing, are
# dropped.
#
# The gap is data, not a setting: if the server settled after every step, two events could never
# meet in one iteration, and no race would be found.
#
# `Sequence.canonical` returns the same run in one agreed form: connections are named in order and
# every close is written out, so that equal findings are equal lines.

from __future__ import annotations

import re
from typing import NamedTuple, Self

from muxleak.files import shown

PLAIN = frozenset({"open", "connect", "header", "keepalive", "padding", "stall", "resume", "drip"})
"""Verbs of a connection: connect and send the header, or do one of the two (``header+5`` sends five
bytes of it); send a KeepAlive, or one with padding; stop or resume reading; from now on send the
first `DRIPS` bytes of each frame one by one."""
DRIPS = 64
"""Enough for everything in a frame but its data. Where data is cut makes no difference, and every
byte costs an iteration."""
ENDINGS = frozenset({"close", "half", "abort"})
"""Verbs that end a connection: FIN both ways, FIN one way, RST."""
ON_STREAM = frozenset({"data", "keep", "packet", "end", "reset"})
"""Verbs that name a stream: Keep with data, without, with an address; End, End with error."""
OPENING = frozenset({"new", "udp", "xudp"})
"""Verbs that name a stream and its handler: New for TCP, for UDP, for UDP with a Global ID."""
SENDING = frozenset({"header", "keepalive", "padding", "junk", "cut", *ON_STREAM, *OPENING})
"""Verbs that send bytes on an open connection."""
CONNECTING = frozenset({"open", "connect", "bad"})
"""Verbs that connect."""
OPERATOR = frozenset({"cancel", "wait"})
"""Verbs without a connection: end the server's context; let the idle intervals pass."""
HANDLERS = (
    *("echo", "sink", "deaf", "return", "raise", "linger", "stubborn", "flood", "close", "bulk"),
    *("late", "loyal", "fragile"),
)
"""Handlers of a stream inside the server, by their names in `sequence.handlers`."""
DESTINATIONS = (
    *("@echo", "@silent", "@refuse", "@close", "@flood", "@deaf", "@reset", "@hang", "@nowhere"),
)
"""Destinations behind the server's outbound, by their names in `sequence.destinations`."""
DATAGRAM_DESTINATIONS = ("@echo", "@silent")
"""The destinations that speak UDP."""
BAD_HEADERS = ("version", "user", "flow", "command", "address", "garbage")
"""Request headers that ``bad`` sends, each wrong in the field of its name."""
JUNK = ("status", "network", "address", "short", "long", "domain")
"""Frames that ``junk`` sends, each of them fatal."""

_STEP = re.compile(
    r"(?:(?P<connection>[a-z]):)?(?P<verb>[a-z]+)(?::(?P<stream>\d{1,20}))?(?::(?P<what>@?[a-z]+))?"
    r"(?:\+(?P<size>\d{1,20}))?(?:~(?P<gap>\d{1,20}))?(?:\^(?P<network>(?:[0-9a-f]{2})+))?",
    re.ASCII,
)
_FORM = "CONNECTION:VERB[:STREAM][:WHAT][+N][~GAP][^HEX]"
WHAT = {
    "new": (*HANDLERS, *DESTINATIONS),
    "udp": (*HANDLERS, *DATAGRAM_DESTINATIONS),
    "xudp": (*HANDLERS, *DATAGRAM_DESTINATIONS),
    "bad": BAD_HEADERS,
    "junk": JUNK,
}
"""The words that each verb accepts as WHAT, the plainest first; other verbs accept none."""
SIZED = frozenset({"header", "keepalive", "data", "packet", "end", "reset", "cut", *OPENING})
"""Verbs that may have a size."""
MAX_ID = 0xFFFF
MAX_SIZE = 0xFFFF
"""Bytes that fit one frame."""
MAX_GAP = 1000
_VERBS = sorted({*PLAIN, *ENDINGS, *ON_STREAM, *OPENING, *OPERATOR, "bad", "junk", "cut"})


class Step(NamedTuple):
    """One action of a peer, or of the operator if it names no connection.

    Attributes:
        verb: one of the verbs above, or "bad", "junk" or "cut".
        connection: a letter; empty for the verbs of `OPERATOR`.
        stream: the id of the frame, for verbs that name a stream.
        what: the name of the handler, destination, or kind of malformed bytes; or empty.
        size: of the data, in bytes.
        gap: iterations of the server's loop before the next step; None lets the server settle.
        network: decisions of the simulated network until the next step, a byte each.
    """

    verb: str
    connection: str = ""
    stream: int | None = None
    what: str = ""
    size: int = 0
    gap: int | None = None
    network: bytes = b""

    def __str__(self) -> str:
        text = f"{self.connection}:{self.verb}" if self.connection else self.verb
        if self.stream is not None:
            text += f":{self.stream}"
        if self.what:
            text += f":{self.what}"
        if self.size:
            text += f"+{self.size}"
        if self.gap is not None:
            text += f"~{self.gap}"
        return f"{text}^{self.network.hex()}" if self.network else text

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one step.

        Raises:
            ValueError: the text is no step; the message says which form was expected.
        """
        match = _STEP.fullmatch(text)
        if match is None:
            raise ValueError(f"step {shown(text)}: expected {_FORM}")
        verb, stream, gap = match["verb"], match["stream"], match["gap"]
        step = cls(
            verb,
            match["connection"] or "",
            None if stream is None else int(stream),
            match["what"] or "",
            int(match["size"] or 0),
            None if gap is None else int(gap),
            bytes.fromhex(match["network"] or "").rstrip(b"\0"),
        )
        if problem := _problem(step):
            raise ValueError(f"step {shown(text)}: {problem}")
        return step


class Sequence(tuple[Step, ...]):
    """Steps in order. `str` gives the notation, and `parse` reads it."""

    __slots__ = ()

    def __str__(self) -> str:
        return " ".join(map(str, self))

    def __repr__(self) -> str:
        return f"Sequence.parse({str(self)!r})"

    def canonical(self) -> Self:
        """Return the same run with connections named in order and every close written out."""
        names: dict[str, str] = {}
        steps = []
        open_: dict[str, None] = {}
        for step in self:
            name = step.connection
            if name:
                name = names.setdefault(name, chr(ord("a") + len(names)))
                if step.verb in {"open", "connect", "junk", *ENDINGS}:
                    open_.pop(name, None)
                if step.verb in {"open", "connect"}:
                    open_[name] = None
            elif step.verb == "wait":
                open_.clear()
            steps.append(step._replace(connection=name))
        # As `SequenceRun.run` does it: settle after the last step, then close all in one iteration.
        steps[-1:] = [step._replace(gap=None) for step in steps[-1:]]
        steps += [Step("close", name, gap=0) for name in open_]
        steps[-1:] = [step._replace(gap=None) for step in steps[-1:]]
        return type(self)(steps)

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line of notation.

        Raises:
            ValueError: a word is no step; the message names it and the expected form.
        """
        return cls(Step.parse(word) for word in line.split())


def _problem(step: Step) -> str:
    """Return the problem with a step, or ""."""
    verb, word, what = step.verb, shown(step.verb), shown(step.what)
    on_stream = verb in ON_STREAM or verb in OPENING
    has_id = step.stream is not None and step.stream <= MAX_ID
    allowed = WHAT.get(verb)
    wrong = {
        f"expected one of {', '.join(_VERBS)}; got {word}": verb not in _VERBS,
        "'cancel' and 'wait' take no connection, every other verb takes one letter": (
            (verb in OPERATOR) == bool(step.connection)
        ),
        f"expected a stream id of 0 to {MAX_ID}, got {step.stream}": on_stream and not has_id,
        f"{word} takes no stream": step.stream is not None and not on_stream,
        f"expected one of {', '.join(allowed or ())}; got {what}": (
            allowed is not None and step.what not in allowed
        ),
        f"{word} takes no {what}": allowed is None and step.what != "",
        f"{word} takes no size": step.size > 0 and verb not in SIZED,
        f"expected a size of 0 to {MAX_SIZE}, got {step.size}": step.size > MAX_SIZE,
        f"expected a gap of 0 to {MAX_GAP}, got {step.gap}": (step.gap or 0) > MAX_GAP,
    }
    return next((problem for problem, holds in wrong.items() if holds), "")
