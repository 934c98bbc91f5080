"""The simulated target: the network's decisions stay within those of a real network."""

import pytest

from muxleak_scenarios import Sequence, SimTarget, find_pair, run_sequence
from muxleak_scenarios.targets.run import SequenceRun
from muxleak_scenarios.targets.simulated import StepDecisions
from muxleak_vless import Lifecycle
from muxleak_vless.link import Link

Arrival = tuple[int, bytes]


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> list[Arrival]:
    """The arrivals at the server's links: the link, and the bytes."""
    seen: list[Arrival] = []
    received = Link.data_received

    def data_received(link: Link, data: bytes) -> None:
        seen.append((id(link), data))
        received(link, data)

    monkeypatch.setattr(Link, "data_received", data_received)
    return seen


def perform(line: str) -> None:
    """Perform a line's steps, and dispose of the target."""
    server = SimTarget(Lifecycle())
    try:
        SequenceRun(server).steps(Sequence.parse(line))
    finally:
        server.dispose()


@pytest.mark.parametrize(
    ("decisions", "sizes"),
    [("", [9]), ("^0001", [1, 8]), ("^0002", [8, 1]), ("^0003", [4, 5]), ("^00010001", [1, 1, 7])],
)
def test_network_cuts_what_arrives(
    arrivals: list[Arrival], decisions: str, sizes: list[int]
) -> None:
    """One frame arrives whole, or in the pieces that are decided; all of it does."""
    perform(f"a:open a:keepalive+1{decisions}")

    assert [len(data) for _, data in arrivals[1:]] == sizes


@pytest.mark.parametrize(("decisions", "seen"), [("", True), ("^01", False), ("^02", False)])
def test_network_holds_what_arrives(arrivals: list[Arrival], decisions: str, *, seen: bool) -> None:
    """Held bytes arrive some iterations later, and then in whole."""
    perform(f"a:open a:keepalive~1{decisions}")
    at_once = len(arrivals) > 1
    arrivals.clear()
    perform(f"a:open a:keepalive~3{decisions}")

    assert at_once == seen
    assert [data for _, data in arrivals[1:]] == [bytes.fromhex("000400000400")]


def test_network_chooses_which_arrival_is_first(arrivals: list[Arrival]) -> None:
    """Two connections' bytes are seen in one iteration in either order."""
    orders = []
    for decisions in ("", "^000001"):
        arrivals.clear()
        perform(f"a:open b:open a:keepalive~0 b:keepalive~1{decisions}")
        a, b = (link for link, _ in arrivals[:2])
        orders.append(["ab"[link == b] for link, _ in arrivals[2:]])
        assert a != b

    assert orders == [["a", "b"], ["b", "a"]]


def test_network_decides_for_one_step_only(arrivals: list[Arrival]) -> None:
    """Decisions that are left at the next step are dropped."""
    perform("a:open^00000101010101 a:keepalive+1")

    assert [len(data) for _, data in arrivals][-1] == 9


def test_network_brings_a_race_out() -> None:
    """The committed fix leaks on a New that is held while the server ends."""
    plain, held = (f"a:open a:new:1:echo~1{decisions} cancel" for decisions in ("", "^01"))
    pair = find_pair("new_after_cleanup")

    assert run_sequence(Sequence.parse(plain), pair.buggy()).violated == ()
    assert run_sequence(Sequence.parse(held), pair.buggy()).violated == ("tasks",)
    assert run_sequence(Sequence.parse(held), pair.fixed()).violated == ()


def test_dealt_decisions_are_taken_in_turn_and_within_their_limit() -> None:
    """Each is reduced below its limit; after the last, the network takes the plain course."""
    choices = StepDecisions()
    choices.use(bytes([5, 0, 7]))

    assert [choices.decide("order", 3) for _ in range(5)] == [2, 0, 1, 0, 0]
