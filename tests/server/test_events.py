"""The events of a sequence: drawing, encoding, and the simplest events of the same effect."""

import asyncio
import re
from random import Random

import pytest

from muxleak.server.check import server_subject
from muxleak.server.events import (
    DETAILS,
    EVENTS,
    GAPS,
    OF_CLIENT,
    ClientEvent,
    Plan,
    events_of,
    in_words,
    shown,
)
from muxleak.sim import Choices, Replay

MESSAGES = (b"hello\n", b"more\r\n", b"x")
PLAN = Plan(MESSAGES, 4, events_of(None, MESSAGES, client=True))


def drawn(number: int, plan: Plan = PLAN) -> list[ClientEvent]:
    """Return some events, the same ones for the same number."""
    return list(plan.draw(Choices(Random(number).randbytes(500))))


@pytest.mark.parametrize(
    "plan", [PLAN, Plan(MESSAGES[:1], 1, PLAN.events), Plan((), 4, ("connect",))]
)
def test_events_are_drawn_from_their_encoding(plan: Plan) -> None:
    """A block of bytes gives its event again, whatever else the plan leaves out."""
    for number in range(20):
        events = drawn(number, plan)
        data = b"".join(map(plan.encode, events))

        assert list(plan.draw(Choices(data))) == events


def test_the_simplest_draw_is_no_event() -> None:
    """Bytes that are 0, or missing, are the end."""
    assert list(PLAN.draw(Choices())) == []
    assert list(PLAN.draw(Choices(bytes(10)))) == []


def test_normal_events_are_their_own() -> None:
    """Clients are numbered in order, and what an event does not use is 0."""
    events = [
        ClientEvent("send", 2, 1, 7, 1),
        ClientEvent("idle", 3, 2, 4, 4),
        ClientEvent("close", 0, 1, 3, 0),
        ClientEvent("split", 2, 2, 5, 2),
    ]

    normal = PLAN.normal(events)

    assert normal == [
        ClientEvent("send", 0, 1, 0, 0),
        ClientEvent("idle", 0, 0, 1, 4),
        ClientEvent("close", 1, 0, 0, 0),
        ClientEvent("split", 0, 2, 5, 2),
    ]
    assert PLAN.normal(normal) == normal


async def failing(_reader: object, writer: asyncio.StreamWriter) -> None:
    """Fail, so that a sequence has an outcome with steps."""
    writer.close()
    raise LookupError


def test_normal_events_have_the_same_effect() -> None:
    """The same sequence fails with the same steps, but for the names of its clients."""
    subject = server_subject(failing, messages=MESSAGES)
    plan = subject.settings.plan
    for number in range(30):
        events = drawn(number, plan)
        outcomes = [
            subject.repeat(Replay(b"".join(map(plan.encode, each))))
            for each in (events, plan.normal(events))
        ]
        verbs = [[re.sub(r"\b[a-d]\b", "?", step) for step in each.steps] for each in outcomes]

        assert verbs[0] == verbs[1]
        assert outcomes[0].signature == outcomes[1].signature


def test_every_event_has_words() -> None:
    """Each kind of event, with each detail, is a clause that names its client."""
    for what in EVENTS:
        for detail in range(DETAILS):
            text = in_words(ClientEvent(what, 1, 0, detail, GAPS - 1), PLAN, connects=True)

            assert text.startswith("b ") or what in {"idle", "shutdown"}
            assert "connects" in text or what in {"idle", "shutdown"}


def test_words_say_what_is_sent() -> None:
    """The parts of a message, its repetitions, or its line end."""

    def words(what: str, detail: int, message: int = 0) -> str:
        return in_words(ClientEvent(what, 0, message, detail, 0), PLAN, connects=False)

    assert words("split", 1) == r"a sends b'h', and b'ello\n' apart"
    assert words("partial", 2) == "a sends b'hello' and not the rest"
    assert words("join", 1) == r"a sends b'hello\nmore\r\n'"
    assert words("burst", 1) == r"a sends b'hello\n' 8 times at once"
    assert words("empty", 0, 1) == r"a sends b'\r\n'"
    assert words("idle", 1) == "15 s pass"


def test_a_burst_of_long_messages_is_short() -> None:
    """It has a mebibyte at most, or one message."""
    plan = Plan((bytes(1 << 19), bytes(1 << 22)), 1, ("burst",))

    assert [plan.times(ClientEvent("burst", 0, each, 2, 0)) for each in (0, 1)] == [2, 1]


def test_long_messages_are_shortened() -> None:
    """The middle is left out, and the length is named."""
    assert shown(b"x" * 41) == f"{b'x' * 20!r}...{b'x' * 20!r} (41 bytes)"


def test_events_need_what_they_send() -> None:
    """Without messages none is sent, and without a client none is run."""
    assert "send" not in events_of(None, (), client=False)
    assert not OF_CLIENT & set(events_of(None, MESSAGES, client=False))
    assert events_of(["close", "connect"], (), client=False) == ("connect", "close")
