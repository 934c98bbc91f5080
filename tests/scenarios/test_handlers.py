"""Handlers and destinations: each does as its name says."""

from collections.abc import Callable

import pytest

from muxleak_scenarios import Sequence, SequenceOutcome, SimTarget
from muxleak_scenarios.sequence.destinations import DESTINATIONS
from muxleak_scenarios.sequence.handlers import BULK, FLOOD, FLOOD_TIMES, HANDLERS
from muxleak_scenarios.sequence.limits import LIMITS
from muxleak_scenarios.sequence.model import UNSOLICITED, ConnectionModel
from muxleak_scenarios.sequence.steps import DESTINATIONS as DESTINATION_NAMES
from muxleak_scenarios.sequence.steps import HANDLERS as HANDLER_NAMES
from muxleak_scenarios.targets.run import SequenceRun
from muxleak_vless import Lifecycle

RunLine = Callable[..., SequenceOutcome]


@pytest.fixture
def seen() -> Callable[[str], tuple[ConnectionModel, list[str]]]:
    """Perform a line; return the model of connection a and the server's open streams."""

    def perform(line: str) -> tuple[ConnectionModel, list[str]]:
        server = SimTarget(Lifecycle())
        try:
            run = SequenceRun(server)
            run.steps(Sequence.parse(line))
            model = run.connections["a"]
            session = server.sessions[model.peer.scope]
            assert run.outcome.violations == []
            return model, [stream.target.host for stream in session.reachable()]
        finally:
            server.dispose()

    return perform


Seen = Callable[[str], tuple[ConnectionModel, list[str]]]


def test_vocabulary_is_what_is_implemented() -> None:
    """Every name of the notation has an implementation, and the other way round."""
    no_listener = {"@refuse", "@hang", "@nowhere"}

    assert set(HANDLERS) == set(HANDLER_NAMES)
    assert {f"@{name}" for name in DESTINATIONS} == set(DESTINATION_NAMES) - no_listener


@pytest.mark.parametrize(
    ("what", "after_data", "after_end"),
    [
        ("echo", True, False),
        ("sink", True, False),
        ("deaf", True, True),
        ("return", False, False),
        ("raise", False, False),
        ("linger", True, True),
        ("stubborn", True, True),
        ("flood", True, False),
        ("close", False, False),
        ("bulk", True, False),
        ("late", True, False),
        ("@echo", True, False),
        ("@silent", True, True),
        ("@refuse", False, False),
        ("@close", False, False),
        ("@flood", True, True),
        ("@deaf", True, True),
        ("@reset", False, False),
        ("@hang", False, False),
        ("@nowhere", False, False),
    ],
)
def test_handler_lives_as_long_as_it_says(
    seen: Seen, what: str, *, after_data: bool, after_end: bool
) -> None:
    """The stream is still served after some data, or after the peer's End, if the table says so."""
    _, living = seen(f"a:open a:new:1:{what}+5")
    assert bool(living) is after_data

    _, living = seen(f"a:open a:new:1:{what}+5 a:end:1")
    assert bool(living) is after_end


@pytest.mark.parametrize("what", ["echo", "@echo"])
def test_handler_echoes(seen: Seen, what: str) -> None:
    """All that was sent comes back."""
    model, _ = seen(f"a:open a:new:1:{what}+60 a:data:1+300 a:data:1+2000")

    assert model.streams[1].received == 2360


@pytest.mark.parametrize("what", sorted(UNSOLICITED))
def test_handler_sends_unasked(seen: Seen, what: str) -> None:
    """Unsolicited bytes come whole if the peer ends its direction in good order."""
    model, _ = seen(f"a:open a:new:1:{what} a:end:1")

    assert model.streams[1].received == len(UNSOLICITED[what])


@pytest.mark.parametrize(("what", "stalls"), [("@deaf", True), ("deaf", True), ("@silent", False)])
def test_handler_that_does_not_read_stalls(seen: Seen, what: str, *, stalls: bool) -> None:
    """Data for a deaf handler fills every buffer, and then its stream is reset."""
    _, living = seen(f"a:open a:new:1:{what}" + " a:data:1+65535" * 8)

    assert bool(living) is not stalls


@pytest.mark.parametrize(("what", "seconds"), [("linger", 0), ("stubborn", LIMITS.close_seconds)])
def test_handler_ends_by_the_first_cancellation_or_the_second(what: str, seconds: float) -> None:
    """The stubborn one takes the time that a closing connection waits for its handlers."""
    server = SimTarget(Lifecycle())
    try:
        run = SequenceRun(server)
        run.steps(Sequence.parse(f"a:open a:new:1:{what} a:close"))
        took = server.loop.time()
    finally:
        server.dispose()

    assert took == pytest.approx(seconds)
    assert run.outcome.violations == []


def test_floods_are_larger_than_any_buffer() -> None:
    """A flood blocks when its peer stalls: it is above the high-water mark of the transports."""
    assert len(FLOOD) * FLOOD_TIMES > 2 * 64 * 1024
    assert max(BULK) > 0xFFFF


def test_stalled_flood_ends_its_connection(run: RunLine) -> None:
    """A peer that does not read is given up after the write limit, and nothing is left."""
    outcome = run("a:open a:stall a:new:1:flood")

    assert (outcome.tasks, outcome.violations) == (0, [])


@pytest.mark.parametrize("what", [*HANDLER_NAMES, *DESTINATION_NAMES])
@pytest.mark.parametrize("ending", ["close", "half", "abort", "junk:status", "cut+5", "reset:1"])
def test_handler_leaves_nothing_behind_the_reference(run: RunLine, what: str, ending: str) -> None:
    """However hostile the handler, every ending of the connection ends it."""
    outcome = run(f"a:open a:new:1:{what}+5 a:data:1+300 a:{ending}")

    assert (outcome.violations, outcome.left_after_end) == ([], 0)
