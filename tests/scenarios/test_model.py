"""The client model: each wrong or missing byte is seen, and nothing legal is flagged."""

from contextlib import suppress
from uuid import UUID

import pytest

from muxleak import Ledger
from muxleak_scenarios import Step
from muxleak_scenarios.sequence.limits import LIMITS
from muxleak_scenarios.sequence.model import ConnectionModel
from muxleak_scenarios.sequence.peers import Peer
from muxleak_vless import ProtocolError
from muxleak_vless.frames import Frame, FrameDecoder, encode_frame
from muxleak_vless.header import Response, encode_response

HEADER = encode_response(Response())


class ScriptedPeer(Peer):
    """A peer that receives the bytes which the test gives it."""

    def __init__(self) -> None:
        super().__init__(Ledger().scope("scripted"))
        self.came = b""

    def send(self, data: bytes) -> None:
        """Drop the bytes."""

    def take(self) -> bytes:
        """Return the bytes that have come."""
        came, self.came = self.came, b""
        return came

    def _nothing(self) -> None:
        pass

    half_close = close = abort = stall = resume = _nothing


class Talk:
    """A model and its peer, with short methods for the traffic between them."""

    def __init__(self, *, header: bool = True) -> None:
        self.peer = ScriptedPeer()
        self.model = ConnectionModel(self.peer, UUID(int=7))
        self._numbers = 0
        if header:
            self.model.encode(Step("header"), 0)
        self.comes(HEADER)

    def sends(self, text: str) -> bytes:
        """Perform a step of the peer; return the data in the frame that it sends."""
        self._numbers += 1
        decoder = FrameDecoder()
        decoder.receive_data(self.model.encode(Step.parse(f"a:{text}"), self._numbers))
        with suppress(ProtocolError):
            if (frame := decoder.next_frame()) is not None:
                return frame.data or b""
        return b""

    def comes(self, *frames: Frame | bytes) -> None:
        """Let frames, or bytes, come from the server."""
        pieces = (each if isinstance(each, bytes) else encode_frame(each) for each in frames)
        self.peer.came = b"".join(pieces)
        self.model.take()


@pytest.fixture
def talk() -> Talk:
    """A connection that has sent and received its headers."""
    return Talk()


def keep(stream: int, data: bytes) -> Frame:
    """Data from the server."""
    return Frame.keep(stream, data)


def test_model_is_content_when_every_byte_has_come(talk: Talk) -> None:
    """Echoed in any pieces, in order, interleaved with another stream: nothing is wrong."""
    first, other = talk.sends("new:1:echo+60"), talk.sends("new:2:@echo+5")
    second = talk.sends("data:1+60")
    talk.comes(keep(1, first[:7]), keep(2, other), keep(1, first[7:] + second[:1]))
    talk.comes(keep(1, second[1:]))

    assert (talk.model.wrong, talk.model.missing) == ("", "")


def test_model_takes_frames_in_any_segments() -> None:
    """The server's bytes may be cut anywhere, the header too."""
    talk = Talk(header=False)
    talk.model.encode(Step("header"), 0)
    data = talk.sends("new:1:echo+5")
    for byte in encode_frame(keep(1, data)):
        talk.comes(bytes([byte]))

    assert (talk.model.wrong, talk.model.missing) == ("", "")


def test_model_misses_what_has_not_come(talk: Talk) -> None:
    """A dropped byte at the end is missing, and the message names the stream."""
    data = talk.sends("new:1:echo+5")
    talk.comes(keep(1, data[:4]))

    assert talk.model.wrong == ""
    assert talk.model.missing == "stream 1: expected 5 bytes, got 4"


@pytest.mark.parametrize(
    "came",
    [
        pytest.param(lambda one, _: keep(1, one[1:]), id="a byte dropped in front"),
        pytest.param(lambda one, _: keep(1, one[::-1]), id="reordered"),
        pytest.param(lambda one, _: keep(1, one + one[:1]), id="more than was sent"),
        pytest.param(lambda one, _: keep(2, one), id="under the id of another"),
        pytest.param(lambda _, two: keep(1, two), id="from another stream"),
        pytest.param(lambda one, _: keep(3, one), id="on a stream that says nothing"),
        pytest.param(lambda one, _: keep(77, one), id="under an id never opened"),
        pytest.param(lambda _one, _two: bytes(4), id="no mux frame"),
    ],
)
def test_model_sees_what_should_not_come(talk: Talk, came: object) -> None:
    """A byte that was not promised next on that stream is wrong, and stays so."""
    one, two = talk.sends("new:1:echo+20"), talk.sends("new:2:echo+20")
    talk.sends("new:3:sink+20")
    assert callable(came)
    talk.comes(came(one, two))
    wrong = talk.model.wrong
    talk.comes(keep(1, one), keep(2, two))

    assert wrong
    assert talk.model.wrong == wrong


def test_model_sees_a_reset_without_cause(talk: Talk) -> None:
    """The server may not fail an echo that gave it no reason."""
    talk.sends("new:1:echo+5")
    talk.comes(Frame.end(1, error=True))

    assert talk.model.wrong == "stream 1: reset by the server, without cause"


def test_model_sees_an_end_without_cause(talk: Talk) -> None:
    """The server may not end a connection that gave it no reason, even if nothing is owed."""
    talk.peer.ended = True

    assert talk.model.missing == "the server ended it, without cause"


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(["new:1:sink+5"], id="a handler that promises nothing"),
        pytest.param(["new:1:echo+5", "reset:1"], id="reset by the peer"),
        pytest.param(["new:1:echo", "end:1", "data:1+5"], id="data after its End"),
        pytest.param(["new:1:echo+5", "cut+3"], id="a frame left open"),
        pytest.param(["new:1:echo+5", "junk:status"], id="a fatal frame"),
        pytest.param(["new:1:echo+5", "new:1:sink"], id="replaced"),
    ],
)
def test_model_expects_nothing_where_nothing_was_accepted(talk: Talk, steps: list[str]) -> None:
    """Bytes that the server never accepted for good are not missed."""
    for step in steps:
        talk.sends(step)

    assert talk.model.missing == ""


def test_model_expects_nothing_before_the_header() -> None:
    """Frames in the middle of a header are read as part of it, and may end the connection."""
    talk = Talk(header=False)
    talk.model.encode(Step("header", size=5), 0)
    talk.sends("new:1:echo+5")

    assert talk.model.missing == ""


def test_model_forgives_a_failed_stream_what_it_owes(talk: Talk) -> None:
    """After a reset with a cause (here, that of an old stream of this id) nothing is missed."""
    talk.sends("new:1:raise+5")
    talk.sends("new:1:echo+5")
    talk.comes(Frame.end(1, error=True))

    assert (talk.model.wrong, talk.model.missing) == ("", "")


def test_model_takes_late_bytes_of_a_replaced_stream(talk: Talk) -> None:
    """Bytes of the old stream may arrive after its id was opened again."""
    old = talk.sends("new:1:echo+20")
    new = talk.sends("new:1:echo+20")
    talk.comes(keep(1, old[:9]), keep(1, new))

    assert (talk.model.wrong, talk.model.missing) == ("", "")


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(["new:1:flood"], id="a flood"),
        pytest.param(["new:1:echo", "data:1+2000", "data:1+2000"], id="much at once"),
    ],
)
def test_model_lets_limits_end_what_strains_them(talk: Talk, steps: list[str]) -> None:
    """A stream, or all, may end when a limit of the server can have been reached; not before."""
    for step in steps:
        strained = talk.model.strained
        talk.sends(step)
    talk.peer.ended = True

    assert not strained
    assert talk.model.missing == ""


def test_model_lets_streams_beyond_the_limit_be_refused(talk: Talk) -> None:
    """One too many may be; those before it may not."""
    for n in range(LIMITS.max_streams + 1):
        talk.sends(f"new:{n}:echo+5")
    talk.comes(Frame.end(LIMITS.max_streams, error=True))
    assert talk.model.wrong == ""

    talk.comes(Frame.end(0, error=True))
    assert talk.model.wrong == "stream 0: reset by the server, without cause"


@pytest.mark.parametrize("before", [[], ["new:1:echo"]], ids=["new", "opened again"])
def test_model_refuses_an_end_without_cause(talk: Talk, before: list[str]) -> None:
    """A stream must not be ended if neither its handler nor an older one has a reason."""
    for step in (*before, "new:1:echo"):
        talk.sends(step)
    talk.comes(Frame.end(1))

    assert talk.model.wrong == "stream 1: ended by the server, without cause"


def test_model_awaits_the_end_of_what_the_peer_has_ended(talk: Talk) -> None:
    """Once, from handlers that are done then; not of a stream that was reset."""
    talk.sends("new:1:echo")
    talk.sends("new:2:sink")
    for stream in (1, 2):
        talk.sends(f"end:{stream}")
    assert talk.model.unanswered == "stream 1: expected its End, got none"

    talk.comes(Frame.end(1))
    assert talk.model.unanswered == ""

    talk.sends("new:1:echo")
    talk.sends("reset:1")
    assert talk.model.unanswered == ""


def test_model_awaits_the_refusal_of_data_for_no_stream(talk: Talk) -> None:
    """Each data frame needs one; frames without data need none."""
    talk.sends("keep:9")
    assert talk.model.unanswered == ""

    for _ in range(2):
        talk.sends("data:9+5")
        assert talk.model.unanswered == "stream 9: expected its End, got none"
        talk.comes(Frame.end(9, error=True))
        assert (talk.model.unanswered, talk.model.wrong) == ("", "")


def test_model_expects_no_refusal_of_a_stream_that_was(talk: Talk) -> None:
    """Data may cross the End of its stream, and be refused or not."""
    for step in ("new:1:echo", "end:1", "data:1+5"):
        talk.sends(step)
    talk.comes(Frame.end(1))
    assert talk.model.unanswered == ""

    talk.comes(Frame.end(1, error=True))
    assert talk.model.wrong == ""


@pytest.mark.parametrize(
    "steps", [["data:9+5"], ["new:1:close"], ["new:1:echo", "new:1:close"], []], ids=" ".join
)
def test_model_refuses_an_end_too_many(talk: Talk, steps: list[str]) -> None:
    """A stream is ended once for each time it is opened, or sent data too late."""
    stream = 9 if steps == ["data:9+5"] else 1
    for step in steps:
        talk.sends(step)
    ends = [Frame.end(stream, error=stream == 9)] * len(steps)
    talk.comes(*ends)
    assert talk.model.wrong == ""

    talk.comes(*ends[:1] or [Frame.end(stream)])
    assert talk.model.wrong == f"stream {stream}: ended by the server once too often"


def test_model_misses_bytes_of_a_strained_connection_that_lives(talk: Talk) -> None:
    """Only its end is excused: an open connection owes every byte."""
    talk.sends("new:1:flood")
    talk.sends("new:2:echo+5")

    assert talk.model.missing == "stream 2: expected 5 bytes, got 0"


def test_model_streams_of_one_run_share_no_bytes() -> None:
    """Each stream has bytes of its own, the same in every run."""
    talks = [Talk(), Talk()]
    one, two = ([talk.sends(f"new:{n}:echo+20") for n in (1, 2, 3)] for talk in talks)

    assert one == two
    assert len(set(one)) == len(one)
