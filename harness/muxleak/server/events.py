"""The events of a connection sequence: how they are drawn, and how they are put in words."""

# An event is drawn as a block of five draws: what happens, which client, which message, a detail,
# and the gap until the next event. The operands are drawn whether the event needs them or not, and
# none of them depends on the events before. So a shrinker that deletes a block, or makes one byte
# of it smaller, changes that event alone. A block whose first draw is 0 is the end.
#
# Clients stand in fixed slots, a to d. An event on a slot without an open connection connects it
# first; so a deleted event renumbers nothing, and no event is impossible. An event that means
# nothing in its state, such as a write after a half-close, does nothing and is not reported.
#
# `EVENTS` is ordered by simplicity, since the shrinker prefers the smaller draw.

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from muxleak.sim.choices import Choices

CLIENTS = "abcd"
EVENTS = (
    *("connect", "send", "client", "close", "half-close", "reset"),
    *("split", "join", "partial", "burst", "stall", "resume", "idle", "shutdown"),
    *("empty", "random", "cut", "cancel"),
)
"""The names of all events; the simplest first."""
OF_MESSAGES = frozenset({"send", "split", "join", "partial", "burst", "empty"})
OF_NOBODY = frozenset({"idle", "shutdown"})
OF_CLIENT = frozenset({"client", "cut"})
MOST = 24
"""Events of a sequence, at most."""
DETAILS = 16  # values of the detail
SETTLED = 2  # values of a gap that settle; the others run 0, 1 or 2 iterations
GAPS = SETTLED + 3
_BURSTS = (2, 8, 64)
_MOST_BYTES = 1 << 20  # of a burst
IDLE = (1, 15, 90)
"""Seconds that an idle time may last."""
_ENDINGS = (b"\r\n", b"\n", b"\0")
# Ends of lines, zeros, and what is no UTF-8; an event takes the last bytes of it.
_RANDOM = bytes.fromhex("ff00 0a80 0dfe 7f20 c328 f0ff 0000 41ff")
_MAX_SHOWN = 40  # characters of a message


class ClientEvent(NamedTuple):
    """One event, as it was drawn.

    Attributes:
        what: one of `EVENTS`.
        slot: of the client, 0 to 3.
        message: number of the message.
        detail: number that each kind of event reads in its own way.
        gap: 0 or 1 to settle before the next event, 2 to 4 to run on for 0 to 2 iterations.
    """

    what: str
    slot: int
    message: int
    detail: int
    gap: int

    @property
    def settles(self) -> bool:
        """True if everything settles before the next event."""
        return self.gap < SETTLED

    @property
    def iterations(self) -> int:
        """Iterations of the loop until the next event, if it does not settle."""
        return self.gap - SETTLED

    def seconds(self, plan: Plan) -> float:
        """Return the seconds that an idle time lasts."""
        return plan.idle[self.detail % len(plan.idle)]

    @property
    def cut(self) -> int:
        """Number of the await at which a client is cut short, from 1."""
        return self.detail + 1


class Plan(NamedTuple):
    """The freedoms of a sequence.

    Attributes:
        messages: the messages that clients send.
        clients: number of slots.
        events: the names of the events that may be drawn.
        idle: the seconds that an idle time may last.
    """

    messages: tuple[bytes, ...]
    clients: int
    events: tuple[str, ...]
    idle: tuple[float, ...] = IDLE

    @property
    def limits(self) -> tuple[int, int, int, int, int]:
        """The number of values of each draw of an event."""
        return len(self.events) + 1, self.clients, max(len(self.messages), 1), DETAILS, GAPS

    def draw(self, choices: Choices) -> Iterator[ClientEvent]:
        """Draw the events of one sequence, each when it is asked for."""
        for _ in range(MOST):
            choices.begin_step()
            event = self.draw_one(choices)
            if event is None:
                break
            yield event

    def draw_one(self, choices: Choices) -> ClientEvent | None:
        """Draw an event; None for the end."""
        what_limit, *limits = self.limits
        what = choices.below(what_limit)
        return ClientEvent(self.events[what - 1], *map(choices.below, limits)) if what else None

    def encode(self, event: ClientEvent) -> bytes:
        """Return the bytes from which an event is drawn."""
        values = (self.events.index(event.what) + 1, *event[1:])
        # A draw of one value takes no byte.
        pairs = zip(values, self.limits, strict=True)
        return bytes(value for value, limit in pairs if limit > 1)

    def normal(self, events: Iterable[ClientEvent]) -> list[ClientEvent]:
        """Return the simplest events with the same effect.

        Clients are renumbered in the order of their first event, and operands that an event does
        not use are 0.
        """
        found: list[ClientEvent] = []
        slots: dict[int, int] = {}
        for each in events:
            slot = 0
            if each.what not in OF_NOBODY:
                slot = slots.setdefault(each.slot, len(slots))
            found.append(
                ClientEvent(
                    each.what,
                    slot,
                    each.message if each.what in OF_MESSAGES else 0,
                    each.detail % self._details(each.what),
                    0 if each.settles else each.gap,
                )
            )
        return found

    def times(self, event: ClientEvent) -> int:
        """Return how often a burst repeats its message; a long one less often."""
        most = max(1, _MOST_BYTES // max(1, len(self.messages[event.message])))
        return min(_BURSTS[event.detail % len(_BURSTS)], most)

    def _details(self, what: str) -> int:
        """Return the number of details that a kind of event tells apart."""
        if what == "join":
            return len(self.messages)
        return {"burst": len(_BURSTS), "idle": len(self.idle)}.get(
            what, DETAILS if what in {"split", "partial", "random", "cut"} else 1
        )

    def pieces(self, event: ClientEvent) -> list[bytes]:
        """Return the bytes that an event sends, apart where they are sent apart."""
        what, detail = event.what, event.detail
        if what == "random":
            return [_RANDOM[-(1 + detail % len(_RANDOM)) :]]
        if what not in OF_MESSAGES:
            return []
        message = self.messages[event.message]
        at = _cut(message, detail)
        ending = next((each for each in _ENDINGS if message.endswith(each)), b"")
        return {
            "split": [message[:at], message[at:]],
            "partial": [message[:at]],
            "join": [message + self.messages[detail % len(self.messages)]],
            "burst": [message * self.times(event)],
            "empty": [ending],
        }.get(what, [message])


def events_of(
    names: Iterable[str] | None, messages: Sequence[bytes], *, client: bool
) -> tuple[str, ...]:
    """Return the names of the events that may be drawn, in their order.

    Args:
        names: those that the user allows; None for all.
        messages: the messages.
        client: True if the user has given a client.

    Raises:
        ValueError: a name is unknown, or no client can take part.
    """
    wanted = set(EVENTS if names is None else names)
    if unknown := sorted(wanted - set(EVENTS)):
        raise ValueError(f"unknown events {unknown!r}, expected some of {', '.join(EVENTS)}")
    without = set() if messages else set(OF_MESSAGES)
    without |= set() if client else OF_CLIENT
    found = tuple(each for each in EVENTS if each in wanted and each not in without)
    if OF_NOBODY.issuperset(found):
        # Only the shutdown and the passing of time would be left: such a check tests nothing.
        needs = {
            "messages of bytes": wanted & OF_MESSAGES,
            "messages= as an async function": wanted & OF_CLIENT,
        }
        why = [
            f"{', '.join(sorted(each))}: only with {what}" for what, each in needs.items() if each
        ]
        text = "; ".join([f"expected an event of a client, got {sorted(wanted)!r}", *why])
        raise ValueError(f"{text}; add 'connect'")
    return found


def _cut(message: bytes, detail: int) -> int:
    """Return the number of bytes before the place at which a message is cut."""
    # 0 is the middle, 1 and 2 are the two ends, which split a header or keep back a line's end.
    places = (len(message) // 2, 1, len(message) - 1)
    if detail < len(places):
        return max(places[detail], 0)
    return len(message) * detail // DETAILS


def in_words(event: ClientEvent, plan: Plan, *, connects: bool) -> str:
    """Return an event as a clause, such as "a connects and sends b'hello'".

    Args:
        event: the event.
        plan: the freedoms of its sequence.
        connects: True if the slot was closed, so that the event connects first.
    """
    if event.what == "idle":
        return f"{event.seconds(plan):g} s pass"
    if event.what == "shutdown":
        return "the server shuts down"
    name = CLIENTS[event.slot]
    if event.what == "cancel":
        return f"{f'{name} connects, ' if connects else ''}the handler of {name} is cancelled"
    verb = _verb(event, plan)
    if connects:
        verb = f"connects and {verb}" if verb else "connects"
    return f"{name} {verb}"


def _verb(event: ClientEvent, plan: Plan) -> str:
    pieces = [shown(each) for each in plan.pieces(event)]
    if event.what == "split":
        return f"sends {pieces[0]}, and {pieces[1]} apart"
    if event.what == "partial":
        return f"sends {pieces[0]} and not the rest"
    if event.what == "burst":
        message = shown(plan.messages[event.message])
        return f"sends {message} {plan.times(event)} times at once"
    if pieces:
        return f"sends {pieces[0]}"
    return {
        "connect": "",
        "client": "runs the client",
        "cut": f"runs the client, which is cut short at its await {event.cut}",
        "close": "closes",
        "half-close": "closes its sending side",
        "reset": "resets",
        "stall": "stops reading",
        "resume": "reads again",
    }[event.what]


def shown(message: bytes) -> str:
    """Return a message as it is printed: shortened in the middle, if it is long."""
    if len(message) <= _MAX_SHOWN:
        return repr(message)
    half = _MAX_SHOWN // 2
    return f"{message[:half]!r}...{message[-half:]!r} ({len(message):,} bytes)"
