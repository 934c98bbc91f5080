"""The vocabulary of connection sequences, and its one-line notation.

A sequence is steps separated by spaces: ``a:open a:new:1:echo+5 a:end:1~0 cancel``. A step is

    CONNECTION:VERB[:STREAM][:WHAT][+BYTES][~GAP][^HEX]     or     cancel[...]     or     wait[...]

Connections are single letters. The gap is what happens before the next step: without one the server
comes to rest; ``~n`` runs n iterations of its loop only, so that ``~0`` is "in the same instant".

What follows ``^`` is how the simulated network goes until the next step, two digits for each of its
decisions: when something that has arrived is seen, in which order, and how it is cut. 00 is the
plain course (at once, in order, whole), and so is all that is not said. Real networks decide alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Self

PLAIN = frozenset({"open", "connect", "header", "keepalive", "padding", "stall", "resume", "drip"})
"""Verbs of a connection: connect and send the header, or one of the two (``header+5``: so many
bytes); a KeepAlive, one with padding; stop and resume reading; send byte by byte from now on, each
time until `DRIPS` bytes have been sent so."""
DRIPS = 64
"""Enough for all of a frame but its data; where data is cut makes no difference to anybody."""
ENDINGS = frozenset({"close", "half", "abort"})
"""Verbs that end a connection: FIN both ways, FIN one way, RST."""
ON_STREAM = frozenset({"data", "keep", "packet", "end", "reset"})
"""Verbs that name a stream: Keep with data, without, with an address; End, End with error."""
OPENING = frozenset({"new", "udp", "xudp"})
"""Verbs that name a stream and what serves it: New for TCP, for UDP, for UDP with a Global ID."""
OPERATOR = frozenset({"cancel", "wait"})
"""Verbs without a connection: the server's context ends; all that is idle has the time to end."""
HANDLERS = (
    *("echo", "sink", "deaf", "return", "raise", "linger", "stubborn", "flood", "close", "bulk"),
    *("late", "loyal"),
)
"""What may serve a stream inside the server; see `muxleak_scenarios.sequence.handlers`."""
DESTINATIONS = (
    *("@echo", "@silent", "@refuse", "@close", "@flood", "@deaf", "@reset", "@hang", "@nowhere"),
)
"""What may serve a stream behind the server's outbound; see the module `destinations`."""
DATAGRAM_DESTINATIONS = ("@echo", "@silent")
"""Those of them that speak UDP."""
BAD_HEADERS = ("version", "user", "flow", "command", "address", "garbage")
JUNK = ("status", "network", "address", "short", "long", "domain")

_STEP = re.compile(
    r"(?:(?P<connection>[a-z]):)?(?P<verb>[a-z]+)(?::(?P<stream>\d+))?(?::(?P<what>@?[a-z]+))?"
    r"(?:\+(?P<size>\d+))?(?:~(?P<gap>\d+))?(?:\^(?P<network>(?:[0-9a-f]{2})+))?",
    re.ASCII,
)
_FORM = "CONNECTION:VERB[:STREAM][:WHAT][+N][~GAP][^HEX]"
_WHAT = {
    "new": (*HANDLERS, *DESTINATIONS),
    "udp": (*HANDLERS, *DATAGRAM_DESTINATIONS),
    "xudp": (*HANDLERS, *DATAGRAM_DESTINATIONS),
    "bad": BAD_HEADERS,
    "junk": JUNK,
}
_SIZED = {"header", "keepalive", "data", "packet", "end", "reset", "cut", *OPENING}
MAX_ID = 0xFFFF
MAX_SIZE = 0xFFFF
"""Bytes that fit one frame."""
MAX_GAP = 1000
_VERBS = sorted({*PLAIN, *ENDINGS, *ON_STREAM, *OPENING, *OPERATOR, "bad", "junk", "cut"})


class Step(NamedTuple):
    """One action of a peer (or, without a connection, of the world) and what goes on after it.

    ``gap`` is the iterations of the server's loop before the next step, None until it is at rest;
    ``network`` what the simulated network decides meanwhile, a byte each.
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
            ValueError: saying what was expected.
        """
        match = _STEP.fullmatch(text)
        if match is None:
            raise ValueError(f"step {text!r}: expected {_FORM}")
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
            raise ValueError(f"step {text!r}: {problem}")
        return step


class Sequence(tuple[Step, ...]):
    """Steps in order; prints as the notation and is read from it."""

    __slots__ = ()

    def __str__(self) -> str:
        return " ".join(map(str, self))

    def __repr__(self) -> str:
        return f"Sequence.parse({str(self)!r})"

    def canonical(self) -> Self:
        """Return the same run, with connections named in order and every close spelled out."""
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
        # After its last step a sequence comes to rest; then all closes fall in one instant.
        steps[-1:] = [step._replace(gap=None) for step in steps[-1:]]
        steps += [Step("close", name, gap=0) for name in open_]
        steps[-1:] = [step._replace(gap=None) for step in steps[-1:]]
        return type(self)(steps)

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line of notation.

        Raises:
            ValueError: naming the step and what was expected.
        """
        return cls(Step.parse(word) for word in line.split())


def _problem(step: Step) -> str:
    """Say what is wrong with a step, or nothing."""
    verb = step.verb
    on_stream = verb in ON_STREAM or verb in OPENING
    has_id = step.stream is not None and step.stream <= MAX_ID
    allowed = _WHAT.get(verb)
    wrong = {
        f"expected one of {', '.join(_VERBS)}; got {verb!r}": verb not in _VERBS,
        "'cancel' and 'wait' take no connection, every other verb takes one letter": (
            (verb in OPERATOR) == bool(step.connection)
        ),
        f"expected a stream id of 0 to {MAX_ID}, got {step.stream}": on_stream and not has_id,
        f"{verb!r} takes no stream": step.stream is not None and not on_stream,
        f"expected one of {', '.join(allowed or ())}; got {step.what!r}": (
            allowed is not None and step.what not in allowed
        ),
        f"{verb!r} takes no {step.what!r}": allowed is None and step.what != "",
        f"{verb!r} takes no size": step.size > 0 and verb not in _SIZED,
        f"expected a size of 0 to {MAX_SIZE}, got {step.size}": step.size > MAX_SIZE,
        f"expected a gap of 0 to {MAX_GAP}, got {step.gap}": (step.gap or 0) > MAX_GAP,
    }
    return next((problem for problem, holds in wrong.items() if holds), "")
